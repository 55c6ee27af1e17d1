"""Run many trainings from one process: import the stack once, then fork one child per rank and job.

Upstream's trainer as it is needs another `llava` package than ours, so it has a process of its own, told by PYTHONPATH.
Imports cost fourteen seconds and a tiny training one, so a fork per job is what lets a hundred configurations be
compared.

    PYTHONPATH=build/oracle python tests/oracle/runner.py upstream jobs.json results.json
"""

from __future__ import annotations

import functools
import json
import os
import runpy
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llava_finetune.launching.processes import free_port
from tests.fixtures.environments import rank_of
from tests.training.forked import Run
from tests.warm import build_operators, draw_no_curves, fork, warm_up

IGNORE_INDEX = -100


def _seed_made_parts() -> None:
    """Seed where projector and adapters get their random values: the two drivers make them at different moments."""
    import llava.model.llava_arch as architecture
    import peft
    import torch

    build, adapt = architecture.build_vision_projector, peft.get_peft_model

    def build_seeded(*arguments: Any, **keywords: Any) -> Any:
        torch.manual_seed(11)
        return build(*arguments, **keywords)

    def adapt_seeded(*arguments: Any, **keywords: Any) -> Any:
        torch.manual_seed(12)
        return adapt(*arguments, **keywords)

    architecture.build_vision_projector = build_seeded
    peft.get_peft_model = adapt_seeded


def _record_taught(path: Path) -> None:
    """Write the taught token ids of every micro-batch, a line each: losses are nearly equal, masks have to be equal."""
    import transformers

    step, lines = transformers.Trainer.training_step, path.open("w", buffering=1)

    def training_step(self: Any, model: Any, inputs: Any, *arguments: Any, **keywords: Any) -> Any:
        rows = [row[row != IGNORE_INDEX].tolist() for row in inputs["labels"]]
        lines.write(json.dumps(rows) + "\n")
        return step(self, model, inputs, *arguments, **keywords)

    transformers.Trainer.training_step = training_step


def _child(kind: str, job: dict[str, Any], rank: int, port: int, environment: Mapping[str, str]) -> None:
    os.environ.clear()
    os.environ.update(environment)
    if job["ranks"] > 1 or job.get("group"):
        os.environ.update(rank_of(rank, job["ranks"], port))
    _seed_made_parts()
    _record_taught(Path(f"{job['log']}.taught.{rank}"))
    if job.get("before"):
        runpy.run_path(job["before"], run_name="__main__")
    if kind == "upstream":
        import llava.train.train as upstream

        sys.argv = ["train.py", *job["argv"]]
        upstream.train()
        return
    from llava_finetune.cli import run_command

    draw_no_curves()
    code = run_command("llava_finetune.training.train", job["argv"])
    if code:
        raise SystemExit(code)


def _fork(kind: str, job: dict[str, Any], rank: int, port: int, environment: Mapping[str, str]) -> int:
    with Path(f"{job['log']}.{rank}").open("w") as log:
        child = functools.partial(_child, kind, job, rank, port, environment)
        return fork(child, [log.fileno(), log.fileno()])


def _wait(children: list[int], seconds: float) -> int:
    """The first exit code that is not 0; -1: out of time."""
    try:
        return Run(children, []).wait(seconds)
    except AssertionError:
        return -1


def run(kind: str, jobs: Sequence[dict[str, Any]], environment: Mapping[str, str]) -> list[dict[str, Any]]:
    """Exit code and seconds of each job; `environment` is all that its ranks know of this process's."""
    if kind == "ours":
        import llava_finetune.training.train
        import llava_finetune.training.trainer  # noqa: F401
    warm_up(any("offload" in word for job in jobs for word in job["argv"]))
    if any(job["ranks"] > 1 and "--deepspeed" in job["argv"] for job in jobs):
        build_operators()
    results = []
    for job in jobs:
        start, port = time.monotonic(), free_port()
        children = [_fork(kind, job, rank, port, environment) for rank in range(job["ranks"])]
        code = _wait(children, job.get("seconds", 120))
        results.append({"name": job["name"], "code": code, "seconds": time.monotonic() - start})
    return results


def main() -> None:
    import llava.train.train  # noqa: F401

    kind, jobs, results = sys.argv[1:]
    Path(results).write_text(json.dumps(run(kind, json.loads(Path(jobs).read_text()), dict(os.environ))))


if __name__ == "__main__":
    main()
