"""Start runners and read what their trainings left: losses of every step, saved weights, the end of a log.

results = run_jobs("ours", [Job("lora", [...], folder / "lora")], folder)
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.fixtures.environments import no_rank
from tests.oracle import runner

ROOT = Path(__file__).resolve().parents[2]


@dataclasses.dataclass(frozen=True)
class Job:
    """One training: its flags without --output_dir, where it writes, and on how many ranks.

    `group`: a process group even for one rank, as DeepSpeed needs. `before`: a script that is run in the child first.
    """

    name: str
    flags: Sequence[str]
    output: Path
    ranks: int = 1
    group: bool = False
    before: Path | None = None
    seconds: float = 400

    def as_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "argv": [*map(str, self.flags), "--output_dir", str(self.output)],
            "log": str(self.output) + ".log",
            "ranks": self.ranks,
            "group": self.group,
            "before": str(self.before) if self.before else None,
            "seconds": self.seconds,
        }


@dataclasses.dataclass(frozen=True)
class Done:
    """How a job ended: exit code (-1: out of time), seconds, what rank 0 printed, and its folder."""

    name: str
    code: int
    seconds: float
    log: str
    output: Path

    def require(self) -> Done:
        """Itself; an assertion error with the end of its log where the run failed."""
        how = f"ran out of time after {self.seconds:.0f} s" if self.code == -1 else f"ended with {self.code}"
        assert self.code == 0, f"{self.name} {how}:\n{self.log[-3000:]}"
        return self

    @property
    def losses(self) -> list[float]:
        """The loss of every step, from the trainer's own state."""
        state = json.loads((self.output / "trainer_state.json").read_text())
        return [row["loss"] for row in state["log_history"] if "loss" in row]

    @property
    def taught(self) -> list[list[list[list[int]]]]:
        """The taught token ids: per rank, per micro-batch, per record."""
        files = sorted(self.output.parent.glob(f"{self.output.name}.log.taught.*"))
        return [[json.loads(line) for line in file.read_text().splitlines()] for file in files]


def run_jobs(kind: str, jobs: Sequence[Job], work: Path, tree: Path | None = None) -> dict[str, Done]:
    """Run jobs one after another, forked from this process. `kind`: ours or upstream.

    `tree`: another `llava` than the patched one; what trains with it is forked from a process of its own.
    """
    work.mkdir(parents=True, exist_ok=True)
    for job in jobs:
        job.output.parent.mkdir(parents=True, exist_ok=True)
    environment = no_rank(
        PYTHONPATH=os.pathsep.join([str(tree or ROOT / "build" / "patched"), str(ROOT)]),
        OMP_NUM_THREADS="1",
        DS_ACCELERATOR="cpu",
        CUDA_VISIBLE_DEVICES="",
        TOKENIZERS_PARALLELISM="false",
        WANDB_MODE="disabled",
        TORCH_EXTENSIONS_DIR=str(Path(sys.prefix) / "torch_extensions"),
        HF_HUB_OFFLINE="1",
    )
    asked = [job.as_json() for job in jobs]
    rows = _run_apart(kind, asked, work, environment) if tree else runner.run(kind, asked, environment)
    out = {}
    for job, row in zip(jobs, rows, strict=True):
        logs = [Path(f"{job.output}.log.{rank}") for rank in range(job.ranks)]
        text = "\n".join(log.read_text(errors="replace") for log in logs if log.exists())
        out[job.name] = Done(job.name, row["code"], row["seconds"], text, job.output)
    return out


def _run_apart(
    kind: str, asked: list[dict[str, Any]], work: Path, environment: Mapping[str, str]
) -> list[dict[str, Any]]:
    jobs, results = work / "jobs.json", work / "results.json"
    jobs.write_text(json.dumps(asked))
    command = [sys.executable, str(Path(__file__).parent / "runner.py"), kind, str(jobs), str(results)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"runner: {done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    rows: list[dict[str, Any]] = json.loads(results.read_text())
    return rows


def weights(folder: Path) -> dict[str, Any]:
    """All tensors that a run saved in its folder, by name, as fp32."""
    import torch
    from safetensors.torch import load_file

    state: dict[str, Any] = {}
    for path in sorted(folder.glob("*.safetensors")):
        state |= load_file(path)
    for name in ("mm_projector.bin", "non_lora_trainables.bin"):
        if (folder / name).exists():
            state |= torch.load(folder / name, map_location="cpu", weights_only=True)
    return {name: value.float() for name, value in state.items()}


def largest_difference(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> float:
    """The largest absolute difference of two states; the names have to be the same."""
    assert set(ours) == set(theirs), sorted(set(ours) ^ set(theirs))[:6]
    assert ours, "nothing was saved"
    return max((ours[name] - theirs[name]).abs().max().item() for name in ours)


def largest_relative(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """The largest relative difference of two loss curves of the same length."""
    assert len(ours) == len(theirs) > 0, (ours, theirs)
    assert all(loss > 0 for loss in ours)
    return max(abs(a - b) / abs(b) for a, b in zip(ours, theirs, strict=True))
