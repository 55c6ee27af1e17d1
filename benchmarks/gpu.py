"""All that a GPU should show, in one go: speed, share of the matmul peak, memory beside the plan, and equal numbers.

Random weights in LLaVA-1.5-7B's shape, made where they are needed, never on disk. Every row runs in a process of its
own, has a time limit, and leaves the other rows alone when it fails: its reason stands in the table, and what it said
in gpu.log. The table is written anew after each row, so that a machine that is taken away leaves what was found.

    python benchmarks/gpu.py                       writes build/benchmarks/gpu.md and gpu.json
    python benchmarks/gpu.py --rows lora,fp8
    python benchmarks/gpu.py --rehearse            tiny, on this CPU, in one process: the whole program to its end

Exit codes: 0 every row that ran gave a result, 1 one failed, 2 wrong use.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
SECONDS = 520.0
"""Of the whole: rows that would begin later are left out, and said so."""
ROW_SECONDS = 100.0
"""Of a row."""
FACTS = "facts: "
"""How the line of a row's process begins that holds its result, whatever libraries print around it."""
ROWS: Mapping[str, Mapping[str, Any]] = {
    "numbers": {"what": "numbers"},
    "peaks": {"what": "peaks"},
    "lora": {"trainer": "ours", "mode": "lora", "checkpointing": False},
    "transformers + peft": {"trainer": "hf", "mode": "lora", "checkpointing": False},
    "fp8": {"trainer": "ours", "mode": "lora", "checkpointing": False, "base_dtype": "fp8"},
    "qlora": {"trainer": "ours", "mode": "qlora", "checkpointing": True},
    "lora, checkpointed": {"trainer": "ours", "mode": "lora", "checkpointing": True},
    "shared pictures": {
        "trainer": "ours",
        "mode": "lora",
        "checkpointing": False,
        "batch": 8,
        "text": 50,
        "pictures": 1,
    },
    "TRL": {"trainer": "trl", "mode": "lora", "checkpointing": False},
    "unsloth": {"trainer": "unsloth", "mode": "lora", "checkpointing": False},
}
"""In the order of what is wanted most."""


@dataclass(frozen=True)
class Job:
    """One row. `text`: tokens beside the picture; `pictures`: different ones of a batch, None: one a record."""

    name: str
    tiny: bool = False
    what: str = "train"
    trainer: str = "ours"
    mode: str = "lora"
    checkpointing: bool = False
    base_dtype: str = "auto"
    batch: int = 4
    text: int = 44
    taught: int = 8
    pictures: int | None = None
    steps: int = 6


def main(argv: Sequence[str] | None = None) -> int:
    """Run the rows, write the table, print it."""
    options = parse(argv)
    if options.job:
        print(f"\n{FACTS}{json.dumps(measure(Job(**json.loads(options.job))))}", flush=True)
        return 0
    began = time.monotonic()
    found: dict[str, dict[str, Any]] = {}
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "gpu.log").unlink(missing_ok=True)
    for name in options.rows:
        job = Job(name, tiny=options.rehearse, **ROWS[name])
        left = SECONDS - (time.monotonic() - began)
        reason = "no time was left" if left < 15 else missing(job)
        found[name] = {"left out": reason} if reason else run(job, min(left, ROW_SECONDS), options.output)
        print(f"{name}: {json.dumps(found[name])}", flush=True)
        (options.output / "gpu.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        (options.output / "gpu.md").write_text(table(found) + "\n", encoding="utf-8")
    print(f"{table(found)}\n\n{time.monotonic() - began:.0f} s; written: {options.output / 'gpu.md'}")
    return 1 if any(failed(row) for row in found.values()) else 0


def failed(row: Mapping[str, Any]) -> bool:
    """Whether a row, or one of the figures in it, has a reason instead of a result."""
    return "failed" in row or any(str(value).startswith("failed ") for value in row.values())


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default=",".join(ROWS), help="some of them, by commas after each other")
    parser.add_argument("--rehearse", action="store_true", help="tiny sizes on this CPU")
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "benchmarks")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    options.rows = [name for name in ROWS if name in _named(options.rows)]
    if not options.rows:
        parser.error(f"--rows: expected some of {'; '.join(ROWS)}")
    return options


def _named(text: str) -> set[str]:
    """Row names of a comma-separated list; some names have commas themselves."""
    return {name for name in ROWS if f",{name}," in f",{text},"}


def missing(job: Job) -> str | None:
    """The package that a row needs and does not find, in words."""
    if job.trainer == "unsloth":  # it patches transformers for the whole environment, and pins other versions
        return "it needs an environment of its own: benchmarks/train.py --trainers ours,unsloth --size 7b"
    needs = {"TRL": "trl", "qlora": "bitsandbytes"}.get(job.name)
    if needs and importlib.util.find_spec(needs) is None:
        return f"{needs} is not installed"
    return None


def run(job: Job, limit: float, output: Path) -> dict[str, Any]:
    """The facts of a row, from a process of its own; in a rehearsal from this one, which has imported all."""
    if not job.tiny:
        return run_apart(job, limit, output)
    try:
        return measure(job)
    except Exception as error:  # whatever a peer raises is its row's result
        return {"failed": f"{type(error).__name__}: {str(error).splitlines()[0][:200] if str(error) else ''}"}


def run_apart(job: Job, limit: float, output: Path) -> dict[str, Any]:
    """The facts of a row from a process of its own; what that wrote on stderr is added to gpu.log."""
    command = [sys.executable, str(Path(__file__)), "--job", json.dumps(asdict(job))]
    with (output / "gpu.log").open("a+", encoding="utf-8", errors="replace") as log:
        log.write(f"==== {job.name}\n")
        log.flush()
        start = log.tell()
        try:
            done = subprocess.run(
                command, stdout=subprocess.PIPE, stderr=log, text=True, cwd=ROOT, check=False, timeout=limit
            )
        except subprocess.TimeoutExpired:
            return {"failed": f"more than {limit:.0f} s"}
        log.seek(start)
        said = log.read().strip().splitlines() or ["no message"]
    if done.returncode:
        return {"failed": f"exit code {done.returncode}: {said[-1][:300]}"}
    facts = [line for line in done.stdout.splitlines() if line.startswith(FACTS)]
    return dict(json.loads(facts[-1].removeprefix(FACTS))) if facts else {"failed": "it ended without a result"}


def measure(job: Job) -> dict[str, Any]:
    """What a row shows. Whole sizes are refused where no GPU is seen."""
    import torch

    from benchmarks import gpu_card, gpu_rows

    if not job.tiny and not torch.cuda.is_available():
        raise RuntimeError("torch sees no GPU here; --rehearse runs tiny sizes on the CPU")
    if job.what == "train":
        with tempfile.TemporaryDirectory() as work:
            return gpu_rows.train(job, Path(work))
    return gpu_card.numbers() if job.what == "numbers" else gpu_card.peaks(job.tiny)


def table(found: Mapping[str, Mapping[str, Any]]) -> str:
    """The rows as Markdown, with what they are shares of."""
    peaks = found.get("peaks", {})
    lines = [f"{name}: {value}" for name in ("numbers", "peaks") for value in [_words(found.get(name, {}))] if value]
    lines += ["", "| row | tokens/s | TFLOP/s | of the measured matmul peak | peak GB | planned GB | note |"]
    lines.append("|---|---|---|---|---|---|---|")
    for name, row in found.items():
        if name in ("numbers", "peaks"):
            continue
        if "tokens_per_second" not in row:
            lines.append(f"| {name} | | | | | | {_words(row)} |")
            continue
        rate, peak = row["flops"] / row["seconds"] / 1e12, peaks.get(f"{row['factors']}_tflops")
        share = f"{rate / peak:.0%}" if isinstance(peak, float) else ""
        planned = f"{row['planned'] / 1e9:.2f}" if "planned" in row else ""
        numbers = f"{row['tokens_per_second']:,.0f} | {rate:.2f} | {share} | {row['peak'] / 1e9:.2f} | {planned}"
        lines.append(f"| {name} | {numbers} | {row.get('note', '')} |")
    return "\n".join(lines)


def _words(row: Mapping[str, Any]) -> str:
    return "; ".join(
        f"{key} {value:.3g}" if isinstance(value, float) else f"{key} {value}" for key, value in row.items()
    )


if __name__ == "__main__":
    raise SystemExit(main())
