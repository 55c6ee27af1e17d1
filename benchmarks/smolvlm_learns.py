"""Does SmolVLM's architecture learn easy-VQA from small, by the family's own path: connector, then all of it or LoRA.

    python benchmarks/smolvlm_learns.py --quickstart runs/quickstart --output runs/smolvlm
    python benchmarks/smolvlm_learns.py --layers 30 --lora_r 64 --learning_rate 7e-4       a whole SmolLM2, by LoRA

The model is transformers' SmolVLMForConditionalGeneration in its published layout: SmolLM2-135M-Instruct of a
quickstart's run (its first layers, as many as are asked for) with SmolVLM's special tokens, a pixel shuffle and one
linear layer, and a small SigLIP tower. The tower begins with the layers of the quickstart's CLIP tower and learns the
train pictures' captions; CLIP's class token and first norm have no place in SigLIP. The connector begins at random.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.quickstart_parts import easy_vqa_pictures, language_model, read_scores, run, with_interval  # noqa: E402

SHUFFLE = 2
MARKS = ("<fake_token_around_image>", "<image>", "<end_of_utterance>", "<global-img>")
TILES = tuple(f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7))
TEMPLATE = (
    "<|im_start|>{% for message in messages %}{{ message.role | capitalize }}:"
    "{{ '' if message.content[0].type == 'image' else ' ' }}"
    "{% for part in message.content %}{{ '<image>' if part.type == 'image' else part.text }}{% endfor %}"
    "<end_of_utterance>\n{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"
)


def parser() -> argparse.ArgumentParser:
    out = argparse.ArgumentParser(
        description=(__doc__ or "").split("\n\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    out.add_argument("--quickstart", type=Path, default=ROOT / "runs/quickstart", help="a run of scripts/quickstart.sh")
    out.add_argument("--output", type=Path, default=ROOT / "runs/smolvlm", help="a folder for the model and its runs")
    out.add_argument("--layers", type=int, default=3, help="layers of the language model that are kept, at most 30")
    out.add_argument("--tower_epochs", type=int, default=4, help="epochs of captions for the tower")
    out.add_argument("--connector_steps", type=int, default=20, help="steps of stage 1, 32 captions each")
    out.add_argument("--steps", type=int, default=200, help="steps of stage 2, 8 pictures each")
    out.add_argument(
        "--turns", type=int, default=3, help="questions of each picture in stage 2; the open ones come first"
    )
    out.add_argument("--lora_r", type=int, default=0, help="LoRA's rank in stage 2; 0: all but the tower is trained")
    out.add_argument("--learning_rate", type=float, default=1e-3, help="of stage 2")
    out.add_argument("--questions", type=int, default=1000, help="questions of the test split, 0 for all")
    return out


def main(argv: list[str] | None = None) -> int:
    """Build, train, measure; prints a table in Markdown. What is there already is taken as it is."""
    a = parser().parse_args(argv)
    data, pictures = a.quickstart / "data", easy_vqa_pictures()
    if not (a.output / "base").is_dir():
        build(a, data, pictures)
    began = time.monotonic()
    train(a, a.output / "base", data / "captions_train.json", pictures, a.output / "connector", stage1(a))
    train(
        a,
        a.output / "connector",
        fewer_questions(data / "train.json", a.turns, a.output),
        pictures,
        a.output / "tuned",
        stage2(a),
    )
    minutes = (time.monotonic() - began) / 60
    rows = measured(a, data / "test.json", data / "train.json", pictures)
    print(f"training {minutes:.0f} min\n\n| asked | open questions | yes and no | all |\n|---|---|---|---|")
    print("\n".join(rows))
    return 0


def fewer_questions(records: Path, turns: int, folder: Path) -> Path:
    """The records with the first `turns` questions of each picture, each asked alone."""
    rows = json.loads(records.read_text(encoding="utf-8"))
    short = [{**row, "conversations": row["conversations"][: 2 * turns], "independent_turns": True} for row in rows]
    (folder / "train.json").write_text(json.dumps(short), encoding="utf-8")
    return folder / "train.json"


def build(a: argparse.Namespace, data: Path, pictures: Path) -> None:
    """The base in `output`/base, whole or not at all."""
    from llava_finetune.quickstart.tower import train_tower

    tower = a.output / "tower"
    if not tower.is_dir():
        start = a.quickstart / "base/tower"
        train_tower(data / "captions_train.json", pictures, tower, a.tower_epochs, start=start)
    work = a.output / "base.partial"
    shutil.rmtree(work, ignore_errors=True)
    model, tokenizer = assemble(Path(language_model(a.quickstart)), tower, a.layers)
    model.save_pretrained(work)
    tokenizer.save_pretrained(work)
    write_processing(work, model.config)
    work.rename(a.output / "base")
    parts = {"in all": model, "tower": model.model.vision_model, "connector": model.model.connector}
    print(", ".join(f"{name} {sum(p.numel() for p in one.parameters()) / 1e6:.2f} M" for name, one in parts.items()))


def assemble(language: Path, tower: Path, layers: int) -> tuple[Any, Any]:
    """A SmolVLM of a language model's first `layers` and a SigLIP tower, and the tokenizer with its marks."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, SiglipVisionModel, SmolVLMConfig
    from transformers import SmolVLMForConditionalGeneration as SmolVLM

    tokenizer = AutoTokenizer.from_pretrained(language)
    tokenizer.add_special_tokens({"additional_special_tokens": [*MARKS, *TILES]})
    tokenizer.eos_token, tokenizer.chat_template = "<end_of_utterance>", None
    words = AutoModelForCausalLM.from_pretrained(language, num_hidden_layers=layers, dtype=torch.float32)
    torch.manual_seed(0)
    words.resize_token_embeddings(len(tokenizer))
    seeing = SiglipVisionModel.from_pretrained(tower, dtype=torch.float32)
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    shape = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "image_size")
    shape += ("patch_size", "hidden_act", "layer_norm_eps")
    config = SmolVLMConfig(
        text_config={**words.config.to_dict(), **ids, "vocab_size": len(tokenizer)},
        vision_config={name: getattr(seeing.config, name) for name in shape},
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        scale_factor=SHUFFLE,
        tie_word_embeddings=True,
        pad_token_id=ids["pad_token_id"],
    )
    model = SmolVLM(config)
    model.model.text_model.load_state_dict(words.model.state_dict())
    model.model.vision_model.load_state_dict(seeing.state_dict())
    model.tie_weights()
    model.generation_config.eos_token_id = ids["eos_token_id"]
    return model, tokenizer


def write_processing(folder: Path, config: Any) -> None:
    """The picture processor, the processor's file and the chat template, as the published models have them."""
    from transformers import SmolVLMImageProcessorPil

    side, patch = config.vision_config.image_size, config.vision_config.patch_size
    whole = {"longest_edge": side}
    half = [0.5] * 3
    SmolVLMImageProcessorPil(
        size=whole, max_image_size=whole, do_image_splitting=False, image_mean=half, image_std=half
    ).save_pretrained(folder)
    values = {"processor_class": "SmolVLMProcessor", "image_seq_len": (side // patch // SHUFFLE) ** 2}
    (folder / "processor_config.json").write_text(json.dumps(values))
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": TEMPLATE}))


def stage1(a: argparse.Namespace) -> list[str]:
    return f"--freeze_backbone True --learning_rate 2e-3 --max_steps {a.connector_steps} {batch(32)}".split()


def stage2(a: argparse.Namespace) -> list[str]:
    lora = f"--lora_enable True --lora_r {a.lora_r} --lora_alpha {2 * a.lora_r} --lora_dropout 0" if a.lora_r else ""
    order = "--train_sampling_strategy sequential"
    return f"{lora} --learning_rate {a.learning_rate} --max_steps {a.steps} {order} {batch(8)}".split()


def batch(size: int) -> str:
    return f"--per_device_train_batch_size {size} --gradient_accumulation_steps 1"


def train(a: argparse.Namespace, model: Path, records: Path, pictures: Path, output: Path, flags: list[str]) -> None:
    """One training in one process; a killed one goes on, an ended one is left."""
    run(
        sys.executable, "-m", "llava_finetune", "train",
        "--model_name_or_path", str(model), "--data_path", str(records), "--image_folder", str(pictures),
        "--output_dir", str(output), "--resume", "auto", "--image_aspect_ratio", "pad", "--warmup_steps", "0.05",
        "--check_data", "False", "--gradient_checkpointing", "False", "--dataloader_num_workers", "0",
        "--save_steps", "100", "--save_total_limit", "1", *flags,
    )  # fmt: skip


def measured(a: argparse.Namespace, test: Path, train_file: Path, pictures: Path) -> list[str]:
    """A row of the table for each way of asking the same questions."""
    asked = ("--data", str(test), "--image_folder", str(pictures), "--sample", str(a.questions))
    asked += ("--output", str(a.output), "--batch_size", "64", "--max_new_tokens", "8")
    tuned = ("--model", str(a.output / "tuned"))
    run(
        sys.executable,
        "-m",
        "llava_finetune",
        "evaluate",
        *asked,
        *tuned,
        "--name",
        "tuned",
        "--train_data",
        str(train_file),
    )
    run(sys.executable, "-m", "llava_finetune", "evaluate", *asked, *tuned, "--name", "blind", "--blind", "blank")
    names = {"tuned": "tuned", "its pictures withheld": "blind", "prior of the training's words": "text_prior"}
    return [row_of(label, read_scores(a.output, name)) for label, name in names.items()]


def row_of(label: str, scores: dict[str, Any]) -> str:
    cells = [scores["by_type"]["open"], scores["by_type"]["yes_no"], scores]
    shown = [with_interval(one["exact_match"], one["interval"]) for one in cells]
    return f"| {label} | {' | '.join(shown)} |"


if __name__ == "__main__":
    raise SystemExit(main())
