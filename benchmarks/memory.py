"""What `plan` says against what a training takes: random weights in a published model's shapes, on a GPU.

One process per configuration trains two steps on made-up records and reads torch.cuda.max_memory_allocated, or, where
there is no GPU, counts the tensors alive (small shapes only). The CUDA context is left out of both.

    python benchmarks/memory.py                                           7B LoRA, 7B QLoRA, 34B QLoRA, as promised
    python benchmarks/memory.py --model liuhaotian/llava-v1.5-7b --mode full --batch 4
    python benchmarks/memory.py --config small.json --tower tower.json    shapes from files, for a CPU

Exit codes: 0 all within 10 %, 1 one is not, or a training failed, 2 wrong use.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
TOLERANCE = 0.1
PROMISED = (
    ("liuhaotian/llava-v1.5-7b", "lora"),
    ("liuhaotian/llava-v1.5-7b", "qlora"),
    ("liuhaotian/llava-v1.6-34b", "qlora"),
)


@dataclass(frozen=True)
class Job:
    """One configuration: `folder` holds a model with random weights."""

    folder: str
    mode: str
    batch: int
    checkpointing: bool
    words: int = 200


def main(argv: Sequence[str] | None = None) -> int:
    """Measure every configuration in a process of its own and print a line for each."""
    options = parse(argv)
    if options.job:
        print(json.dumps(measure(Job(**json.loads(options.job)))))
        return 0
    chosen = [(options.model, options.mode)] if options.model or options.config else PROMISED
    good = True
    for model, mode in chosen:
        with tempfile.TemporaryDirectory(dir=options.work) as work:
            folder = make_model(Path(work), model, options.config, options.tower)
            good &= report(Job(str(folder), mode, options.batch, not options.no_checkpointing), model or options.config)
    return 0 if good else 1


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a model that plan knows; default: the three promised configurations")
    parser.add_argument("--config", help="a config.json instead, in upstream's layout")
    parser.add_argument("--tower", help="the tower's config.json, with --config")
    parser.add_argument("--mode", choices=("pretrain", "lora", "qlora", "full"), default="lora")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--no-checkpointing", action="store_true")
    parser.add_argument("--work", type=Path, default=ROOT / "build", help="where random weights are kept meanwhile")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def report(job: Job, name: str) -> bool:
    """Run one measurement and print it beside the plan; whether it is within the tolerance."""
    command = [sys.executable, str(Path(__file__)), "--job", json.dumps(asdict(job))]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    if done.returncode:
        print(f"{name}, {job.mode}: failed\n{done.stderr[-2000:]}")
        return False
    facts = json.loads(done.stdout.splitlines()[-1])
    gap = facts["planned"] / facts["measured"] - 1
    print(
        f"{name}, {job.mode}, batch {job.batch}, checkpointing {job.checkpointing}: measured "
        f"{facts['measured'] / 1e9:.3f} GB, planned {facts['planned'] / 1e9:.3f} GB ({gap:+.1%}) on {facts['device']}",
        flush=True,
    )
    return abs(gap) <= TOLERANCE


def make_model(folder: Path, model: str | None, config: str | None, tower: str | None) -> Path:
    """A folder with these shapes, random bf16 weights, a tower and a tiny tokenizer."""
    import llava.model  # noqa: F401  registers the config classes
    import torch
    import transformers

    from llava_finetune.model.modeling import model_class
    from llava_finetune.planning.shapes import KNOWN_MODELS
    from tests.tiny import make_tiny_language_model

    known = json.loads(KNOWN_MODELS.read_text())
    values = json.loads(Path(config).read_text()) if config else known["models"][model]
    seen = json.loads(Path(tower).read_text()) if tower else known["towers"][values["mm_vision_tower"]]
    make_tiny_language_model(folder)
    transformers.CLIPVisionModel(transformers.CLIPVisionConfig(**seen)).to(torch.bfloat16).save_pretrained(
        folder / "clip"
    )
    size = seen["image_size"]
    processor = {"size": {"shortest_edge": size}, "crop_size": {"height": size, "width": size}}
    (folder / "clip" / "preprocessor_config.json").write_text(
        json.dumps({"image_processor_type": "CLIPImageProcessor", **processor})
    )
    values |= {"mm_vision_tower": str(folder / "clip"), "mm_hidden_size": seen["hidden_size"]}
    values |= {"mm_vision_select_layer": -2, "max_position_embeddings": 4096}
    built = transformers.AutoConfig.for_model(**values)
    torch.set_default_dtype(torch.bfloat16)
    try:
        model_class(built.model_type)(built).save_pretrained(folder)
    finally:
        torch.set_default_dtype(torch.float32)
    return folder


def measure(job: Job) -> dict[str, Any]:
    """Train two steps; peak bytes of tensors, and what the plan says for the same lengths."""
    import llava.model  # noqa: F401  registers the config classes
    import torch
    from PIL import Image

    from benchmarks.allocations import Allocations
    from llava_finetune.config.arguments import parse as parse_training
    from llava_finetune.planning.memory import CONTEXT, Setting, estimate
    from llava_finetune.planning.shapes import read_shape
    from llava_finetune.training.train import train

    folder = Path(job.folder)
    Image.new("RGB", (640, 480), "red").save(folder / "red.png")
    turns = [{"from": "human", "value": "<image>\n" + "red " * job.words}, {"from": "gpt", "value": "it is red"}]
    rows = [{"id": str(number), "image": "red.png", "conversations": turns} for number in range(4 * job.batch)]
    (folder / "records.json").write_text(json.dumps(rows))
    lora = ["--lora_enable", "True", "--lora_r", "128"]
    mode = {"pretrain": ["--tune_mm_mlp_adapter", "True"], "lora": lora, "qlora": [*lora, "--bits", "4"], "full": []}
    argv = [
        "--model_name_or_path", folder, "--data_path", folder / "records.json", "--image_folder", folder,
        "--output_dir", folder / "run", "--version", "v1", "--max_steps", 2, "--per_device_train_batch_size", job.batch,
        "--gradient_checkpointing", job.checkpointing, "--precision", "bf16", "--attn_implementation", "sdpa",
        "--save_strategy", "no", "--check_data", "False", "--model_max_length", 4096, *mode[job.mode],
    ]  # fmt: skip
    cuda = torch.cuda.is_available()
    seen = None if cuda else Allocations()
    with seen or contextlib.nullcontext():
        trainer = train(parse_training([str(word) for word in argv]))
    example = trainer.train_dataset[0]
    setting = Setting(
        job.mode,
        batch=job.batch,
        checkpointing=job.checkpointing,
        stage=0,
        text_tokens=len(example["input_ids"]) - 1,
        supervised_tokens=int((example["labels"] != -100).sum()),
        max_length=4096,
        mask_bytes=1 if cuda else 4,
    )
    return {
        "measured": seen.peak if seen else torch.cuda.max_memory_allocated(),
        "planned": estimate(read_shape(str(folder)), setting).total - CONTEXT,
        "device": torch.cuda.get_device_name() if cuda else "the CPU (tensors alive)",
    }


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    raise SystemExit(main())
