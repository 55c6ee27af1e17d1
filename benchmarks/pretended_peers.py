"""Operations and peak memory of a 7B LoRA step, ours beside transformers + peft's and TRL's, counted by one ledger.

Every trainer runs whole on the pretended GPU: ours from its command line, transformers' Trainer and TRL's SFTTrainer on
LlavaForConditionalGeneration with peft's adapters, SDPA and padded batches. Records, dtypes, LoRA's layers, rank and
dropout, the trained projector and the optimizer are the same. Counts hold on any machine; no time is counted.

    python benchmarks/pretended_peers.py                                 whole depth, minutes of one core
    python benchmarks/pretended_peers.py --layers 2 --trainers ours,transformers

Exit codes: 0 done, 1 ours needs more operations or memory than a peer, 2 wrong use.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
if TYPE_CHECKING:
    from llava_finetune.planning.shapes import Shape
    from llava_finetune.pretended_gpu.training import Job, Seen

MODEL = "liuhaotian/llava-v1.5-7b"
TEXTS: Mapping[str, tuple[int, ...]] = {"unlike": (100, 180, 280, 420), "alike": (245, 245, 245, 245)}
"""Tokens of text of a batch's records, made up: padded, the first is 18 % padding, the second none."""
TAUGHT = 64
LAYERS = r".*language_model.*\.(q|k|v|o|gate|up|down)_proj"
TRAINERS = {"ours": "llava-finetune", "transformers": "transformers + peft", "trl": "TRL's SFTTrainer"}


def main(argv: Sequence[str] | None = None) -> int:
    """Count a step of every trainer and print a table."""
    options = parse(argv)
    from llava_finetune.pretended_gpu.guard import load

    load()  # before torch is imported
    head = "lengths | checkpointing | trainer | GFLOP a token | ours needs | peak GB | ours needs | MB moved a token"
    print(f"| {head} | operators a step |\n{'|---' * 9}|", flush=True)
    worse = False
    for lengths in options.texts:
        for checkpointing in (False, True):
            first: tuple[float, float] | None = None
            for trainer in options.trainers:
                seen = step(job_of(lengths, checkpointing, options.layers), trainer)
                operations, tokens = seen.trace.operations, sum(seen.lengths)
                found = (sum(one.flops for one in operations) / tokens / 1e9, seen.peak / 1e9)
                moved = sum(one.read + one.written for one in operations) / tokens / 1e6
                first = first or found
                worse |= any(mine > other for mine, other in zip(first, found, strict=True))
                shares = [f"{mine / other:.2f}" for mine, other in zip(first, found, strict=True)]
                row = [lengths, "yes" if checkpointing else "no", TRAINERS[trainer], f"{found[0]:.2f}", shares[0]]
                row += [f"{found[1]:.2f}", shares[1], f"{moved:.0f}", f"{len(operations):,}"]
                print(f"| {' | '.join(row)} |", flush=True)
    return 1 if worse else 0


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, help="of the language model and the tower; default: all")
    parser.add_argument("--texts", default=",".join(TEXTS), help="unlike, alike, or both")
    parser.add_argument("--trainers", default=",".join(TRAINERS), help="ours and some of transformers,trl")
    options = parser.parse_args(argv)
    options.texts, options.trainers = options.texts.split(","), options.trainers.split(",")
    if unknown := {*options.texts, *options.trainers} - {*TEXTS, *TRAINERS}:
        parser.error(f"{', '.join(sorted(unknown))}: expected some of {', '.join([*TEXTS, *TRAINERS])}")
    if options.trainers[0] != "ours":
        parser.error("--trainers: ours comes first, for the others are compared with it")
    if "trl" in options.trainers and importlib.util.find_spec("trl") is None:
        options.trainers.remove("trl")
        print("TRL is left out: it is not installed (pip install trl)", file=sys.stderr)
    return options


def job_of(lengths: str, checkpointing: bool, layers: int | None = None) -> Job:
    """One step of LoRA as everybody takes it, with the optimizer's state made before."""
    from llava_finetune.planning.setting import Setting
    from llava_finetune.pretended_gpu.training import Job

    texts = TEXTS[lengths]
    setting = Setting("lora", batch=len(texts), checkpointing=checkpointing, stage=0, supervised_tokens=TAUGHT)
    return Job(MODEL, setting, layers=layers, texts=texts, steps=1, record=True)


def step(job: Job, trainer: str) -> Seen:
    """What a trainer's step showed."""
    from llava_finetune.pretended_gpu.training import run

    return run(job) if trainer == "ours" else peer_step(job, trainer)


def peer_step(job: Job, trainer: str) -> Seen:
    """The same of transformers' Trainer or TRL's SFTTrainer."""
    from llava_finetune.planning.from_config import read_shape
    from llava_finetune.pretended_gpu.model_folder import make_folder
    from llava_finetune.pretended_gpu.steps import watch
    from llava_finetune.pretended_gpu.trace import Trace
    from llava_finetune.pretended_gpu.training import Seen, lengths_of, pretended

    shape = read_shape(job.model)
    features = job.setting.batch * shape.image_tokens * shape.language.hidden
    padded = len(set(job.texts)) > 1
    trace = Trace(
        lambda size, asked: features if len(size) == 3 else None, lambda place: not (padded and MASKS in place)
    )
    seen = Seen(job, trace, "", lengths_of(job, shape))
    with tempfile.TemporaryDirectory() as work, pretended(seen):
        folder = make_folder(Path(work), shape, job.layers)
        made = TRAINER_MAKERS[trainer](folder, job, seen.lengths, shape)
        watch(made, seen)
        made.train()
    return seen


MASKS = "transformers/masking_utils.py"
"""Where transformers asks whether a batch has no padding, and then leaves the mask out."""


def adapted(job: Job, shape: Shape) -> Any:
    """transformers' own LLaVA of this shape in bf16 with peft's adapters, and a trained projector in fp32."""
    import peft
    import torch
    import transformers

    language, vision = shape.language, shape.vision
    text = transformers.LlamaConfig(
        hidden_size=language.hidden, intermediate_size=language.intermediate,
        num_hidden_layers=job.layers or language.layers, num_attention_heads=language.heads,
        num_key_value_heads=language.kv_heads, vocab_size=language.vocabulary,
    )  # fmt: skip
    tower = transformers.CLIPVisionConfig(
        hidden_size=vision.hidden, intermediate_size=vision.intermediate,
        num_hidden_layers=job.layers + 1 if job.layers else vision.layers,
        num_attention_heads=vision.heads, image_size=vision.image_size, patch_size=vision.patch_size,
    )  # fmt: skip
    config = transformers.LlavaConfig(
        vision_config=tower, text_config=text, image_token_index=PICTURE, attn_implementation="sdpa"
    )
    model = transformers.LlavaForConditionalGeneration.from_pretrained(None, config=config, dtype=torch.bfloat16)
    model.config.get_text_config().use_cache = False  # where it stands alone, a training would fill a cache
    rank = job.setting.rank
    lora = peft.LoraConfig(r=rank, lora_alpha=2 * rank, lora_dropout=job.setting.dropout, target_modules=LAYERS)
    model = peft.get_peft_model(model, lora)
    for name, module in model.named_modules():
        if name.endswith("multi_modal_projector"):
            module.float().requires_grad_(True)
    return model


PICTURE = 5
"""A token that stands for a part of the picture; it can be any."""


def collator(lengths: Sequence[int], taught: int, shape: Shape) -> Any:
    """Padded batches of the records' numbers: the picture's tokens stand in the text, as a processor writes them."""
    import torch

    def collate(rows: Sequence[Mapping[str, int]]) -> dict[str, torch.Tensor]:
        wanted = [lengths[row["number"]] for row in rows]
        ids = torch.zeros(len(rows), max(wanted), dtype=torch.long)
        mask, labels = torch.zeros_like(ids), torch.full_like(ids, -100)
        for row, length in enumerate(wanted):
            ids[row, :length], mask[row, :length] = PICTURE + 1, 1
            ids[row, 1 : 1 + shape.image_tokens] = PICTURE
            labels[row, length - taught : length] = PICTURE + 1
        side = shape.vision.image_size
        pixels = torch.zeros(len(rows), 3, side, side)
        return {"input_ids": ids, "attention_mask": mask, "labels": labels, "pixel_values": pixels}

    return collate


def _common(folder: Path, job: Job, lengths: Sequence[int], shape: Shape) -> tuple[dict[str, Any], dict[str, Any]]:
    """What both trainers are given: (flags, model and data)."""
    import datasets

    flags = {
        "output_dir": str(folder / "run"), "per_device_train_batch_size": job.setting.batch, "max_steps": job.steps,
        "learning_rate": 2e-4, "save_strategy": "no", "report_to": "none", "bf16": True, "logging_steps": 1,
        "remove_unused_columns": False, "gradient_checkpointing": job.setting.checkpointing, "disable_tqdm": True,
    }  # fmt: skip
    rows = datasets.Dataset.from_list([{"number": number} for number in range(len(lengths))])
    batches = collator(lengths, job.setting.supervised_tokens, shape)
    return flags, {"model": adapted(job, shape), "train_dataset": rows, "data_collator": batches}


def _transformers(folder: Path, *what: Any) -> Any:
    import transformers

    flags, given = _common(folder, *what)
    return transformers.Trainer(args=transformers.TrainingArguments(**flags), **given)


def _trl(folder: Path, *what: Any) -> Any:
    import trl
    from transformers import AutoTokenizer

    flags, given = _common(folder, *what)
    config = trl.SFTConfig(**flags, max_length=None, dataset_kwargs={"skip_prepare_dataset": True})
    return trl.SFTTrainer(args=config, processing_class=AutoTokenizer.from_pretrained(folder), **given)


TRAINER_MAKERS = {"transformers": _transformers, "trl": _trl}


if __name__ == "__main__":
    os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_VERBOSITY="error", PYTHONWARNINGS="ignore")
    raise SystemExit(main())
