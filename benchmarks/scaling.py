"""Several ranks: two measured against one on this machine, and on paper the tokens per second of 8 to 512 GPUs.

On paper: operations per token, a GPU's sustained rate, bytes each ZeRO stage moves, bandwidths. Compute and
communication overlap in the best case and add up in the worst: both are printed. Measured: the quickstart's model, the
same micro-batch on each rank, one thread each.

    python benchmarks/scaling.py --sustained 4e14 --within 4e11 --between 5e10
    python benchmarks/scaling.py --measure 1,2
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # before this folder, whose data_prep.py is not the package

TOKENS_PER_SAMPLE = 640


@dataclass(frozen=True)
class Work:
    """One training mode: operations per token, and weights that are sent as gradients or gathered."""

    name: str
    flops_per_token: float
    trained: float
    frozen: float


#: LLaVA-1.5-7B: 6.476e9 weights in the layers; LoRA r 128 on all of them adds 3.2e8; head and tower are left out.
MODES = (
    Work("LoRA r 128", 4 * 6.476e9 + 6 * 3.198e8, 3.198e8 + 2.1e7, 6.76e9),
    Work("full", 6 * 6.476e9, 6.76e9, 0.3e9),
)
BYTES = 2  # bf16


def moved(work: Work, stage: int, ranks: int, accumulation: int) -> float:
    """Bytes that one rank sends per optimizer step, in rings.

    ZeRO-2: gradients reduced and scattered each micro-batch, trained weights gathered once a step. ZeRO-3: besides, all
    weights gathered before the forward and before the backward of each micro-batch.
    """
    share = (ranks - 1) / ranks
    gradients = accumulation * work.trained * BYTES * share
    if stage == 2:
        return gradients + work.trained * BYTES * share
    return gradients + accumulation * 2 * (work.trained + work.frozen) * BYTES * share


def rates(work: Work, stage: int, ranks: int, options: argparse.Namespace) -> tuple[float, float, float]:
    """Tokens/s when communication overlaps fully, when not at all, and communication's share of compute."""
    tokens = options.batch * options.accumulation * TOKENS_PER_SAMPLE
    compute = tokens * work.flops_per_token / options.sustained
    slowest = options.within if ranks <= options.per_node else options.between
    talk = moved(work, stage, ranks, options.accumulation) / slowest
    return ranks * tokens / max(compute, talk), ranks * tokens / (compute + talk), talk / compute


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table. Exit code 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sustained", type=float, default=4e14, help="operations/s that one GPU sustains")
    parser.add_argument("--within", type=float, default=4e11, help="bytes/s per GPU inside of a machine")
    parser.add_argument("--between", type=float, default=5e10, help="bytes/s per GPU between machines")
    parser.add_argument("--per_node", type=int, default=8)
    parser.add_argument("--batch", type=int, default=16, help="samples per GPU and micro-batch")
    parser.add_argument("--accumulation", type=int, default=1)
    parser.add_argument("--measure", help="numbers of ranks to measure here, with commas, instead")
    parser.add_argument("--model", type=Path, default=ROOT / "runs/quickstart/base/language-model")
    parser.add_argument("--tower", type=Path, default=ROOT / "runs/quickstart/base/tower")
    parser.add_argument("--data", type=Path, default=ROOT / "runs/quickstart/data/train.json")
    parser.add_argument("--steps", type=int, default=6, help="measured steps, after two to warm up")
    parser.add_argument("--micro_batch", type=int, default=4, help="samples per measured rank and step")
    options = parser.parse_args(argv)
    if options.measure:
        return measure(options, [int(number) for number in options.measure.split(",")])
    print("| mode | ZeRO | GPUs | tokens/s, overlapped | tokens/s, not overlapped | communication / compute |")
    print("|---" * 6 + "|")
    for work in MODES:
        for stage in (2, 3):
            for ranks in (8, 64, 512):
                best, worst, share = rates(work, stage, ranks, options)
                print(f"| {work.name} | {stage} | {ranks} | {best:,.0f} | {worst:,.0f} | {share:.2f} |")
    print(
        f"\ncomputed, not measured: {options.sustained:.1e} op/s per GPU, {options.within:.1e} B/s per GPU inside of a "
        f"machine of {options.per_node}, {options.between:.1e} B/s between; micro-batch {options.batch} x "
        f"{TOKENS_PER_SAMPLE} tokens, accumulation {options.accumulation}; latency and stragglers are left out.\n"
        "Communication dominates where the last column is over 1."
    )
    return 0


def measure(options: argparse.Namespace, numbers: Sequence[int]) -> int:
    """Samples per second of each number of ranks, and the ratio to the first. Exit code 0."""
    from train import make_start

    work = ROOT / "build/benchmarks/scaling"
    options.size, options.records = None, options.data
    if not (work / "start" / "llava_finetune.json").is_file():
        make_start(options, work / "start")
    print("| ranks | samples/s, median | of the first, times | step |\n|---|---|---|---|")
    first = 0.0
    for ranks in numbers:
        rate = statistics.median(rates_of(options, work, ranks))
        first = first or rate
        print(f"| {ranks} | {rate:.2f} | {rate / first:.2f} | {ranks * options.micro_batch / rate:.2f} s |", flush=True)
    threads = os.environ.get("OMP_NUM_THREADS", "all")
    print(f"micro-batch {options.micro_batch}, LoRA r 128, bf16, {threads} threads a rank")
    return 0


def rates_of(options: argparse.Namespace, work: Path, ranks: int) -> list[float]:
    """Samples per second of every measured step of a run on so many ranks (DDP)."""
    import easy_vqa

    output = work / "run"
    shutil.rmtree(output, ignore_errors=True)
    flags = (
        f"--model_name_or_path {work / 'start'} --vision_tower {options.tower.resolve()} --data_path {options.data} "
        f"--image_folder {Path(easy_vqa.__file__).parent / 'data'} --lora_enable True --lora_r 128 --lora_alpha 256 "
        f"--bf16 True --check_data False --per_device_train_batch_size {options.micro_batch} --save_strategy no "
        f"--max_steps {options.steps + 2} --dataloader_num_workers 0 --ddp_backend gloo --output_dir {output}"
    )
    port = ["--master-port", str(29500 + os.getpid() % 1000)]
    starter = [
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        str(ranks),
        *port,
        "-m",
        "llava_finetune.training.train",
    ]
    variables = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, *starter, *flags.split()]
    done = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"failed: {done.stderr[-1500:]}")
    rows = [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]
    return [row["samples_per_second"] for row in rows if "loss" in row][2:]


if __name__ == "__main__":
    raise SystemExit(main())
