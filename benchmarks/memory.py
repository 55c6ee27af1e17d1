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
    text: int = 256
    taught: int = 8


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
    """A folder with these shapes, random bf16 weights, a tower and a tokenizer of bytes."""
    import llava.model  # noqa: F401  registers the config classes
    import torch
    import transformers

    from llava_finetune.model.modeling import model_class
    from llava_finetune.planning.from_config import read_shape
    from llava_finetune.pretended_gpu.model_folder import make_folder

    given = folder / "given"
    for source, target in ((config, given / "config.json"), (tower, given / "tower" / "config.json")):
        if source:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(Path(source).read_bytes())
    shape = read_shape(str(given) if config else str(model), str(given / "tower") if tower else None)
    make_folder(folder, shape)
    clip = transformers.CLIPVisionConfig.from_pretrained(folder / "clip")
    transformers.CLIPVisionModel(clip).to(torch.bfloat16).save_pretrained(folder / "clip")
    built = transformers.AutoConfig.from_pretrained(folder)
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

    from benchmarks.allocations import Allocations
    from llava_finetune.config.arguments import parse as parse_training
    from llava_finetune.planning.from_config import read_shape
    from llava_finetune.planning.memory import estimate
    from llava_finetune.planning.setting import Setting
    from llava_finetune.pretended_gpu.records import TEMPLATE, write_records
    from llava_finetune.training.train import train

    folder = Path(job.folder)
    shape = read_shape(str(folder))
    cuda = torch.cuda.is_available()
    setting = Setting(
        job.mode, batch=job.batch, checkpointing=job.checkpointing, stage=0, text_tokens=job.text,
        supervised_tokens=job.taught, max_length=4096, mask_bytes=1 if cuda else 4, accumulated=False,
    )  # fmt: skip
    write_records(folder, shape, setting, 4 * job.batch)
    lora = ["--lora_enable", "True", "--lora_r", "128"]
    mode = {"pretrain": ["--tune_mm_mlp_adapter", "True"], "lora": lora, "qlora": [*lora, "--bits", "4"], "full": []}
    argv = [
        "--model_name_or_path", folder, "--data_path", folder / "records.json", "--image_folder", folder,
        "--output_dir", folder / "run", "--version", TEMPLATE, "--max_steps", 2,
        "--per_device_train_batch_size", job.batch,
        "--gradient_checkpointing", job.checkpointing, "--precision", "bf16", "--attn_implementation", "sdpa",
        "--save_strategy", "no", "--check_data", "False", "--model_max_length", 4096, *mode[job.mode],
    ]  # fmt: skip
    seen = None if cuda else Allocations()
    with seen or contextlib.nullcontext():
        train(parse_training([str(word) for word in argv]))
    return {
        "measured": seen.peak if seen else torch.cuda.max_memory_allocated(),
        "planned": estimate(shape, setting).tensors,
        "device": torch.cuda.get_device_name() if cuda else "the CPU (tensors alive)",
    }


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    raise SystemExit(main())
