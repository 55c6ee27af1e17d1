"""Questions answered by several processes, each with every n-th of them; they share nothing but the files.

spread(["--model", "runs/mine", "--data", "test.json"], total=900, count=2, folder=Path("runs/mine"))
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llava_finetune.errors import UserError
from llava_finetune.evaluation.scoring import read_predictions
from llava_finetune.parent import bound_to_this


def spread(words: Sequence[str], total: int, count: int, folder: Path) -> list[dict[str, Any]]:
    """The answers to `total` questions, made by at most `count` processes of `evaluate WORDS`.

    They leave them in a folder of this call's own: two evaluations may write into the same folder.
    """
    with tempfile.TemporaryDirectory(prefix=".predictions-", dir=folder, ignore_cleanup_errors=True) as place:
        return _spread(words, total, min(count, total), Path(place))


def _spread(words: Sequence[str], total: int, count: int, place: Path) -> list[dict[str, Any]]:
    shards = [f"{index}/{count}" for index in range(count)]
    environment = {**bound_to_this(os.environ), "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    command = [sys.executable, "-m", "llava_finetune", "evaluate", *words, "--output", str(place)]
    running = [
        subprocess.Popen(
            [*command, "--num_processes", "1", "--shard", shard],
            env={**environment, "CUDA_VISIBLE_DEVICES": str(index)} if has_gpus(count) else environment,
            stdout=None if index == 0 else subprocess.DEVNULL,
        )
        for index, shard in enumerate(shards)
    ]
    try:
        codes = _ended(running)
    finally:
        for process in running:
            process.kill()
        for process in running:
            process.wait()  # one that still writes would stand in the way of removing its folder
    if any(codes):
        raise UserError(f"process {next(i for i, c in enumerate(codes) if c)} of {count} failed; its message is above")
    parts = [read_predictions(shard_file(place, shard)) for shard in shards]
    return [parts[index % count][index // count] for index in range(total)]


def _ended(running: Sequence[subprocess.Popen[bytes]]) -> list[int | None]:
    """Exit codes once all have ended, or the first has failed: what the others would still make is of no use then."""
    while True:
        codes = [process.poll() for process in running]
        if any(codes) or None not in codes:
            return codes
        time.sleep(0.05)


def has_gpus(count: int) -> bool:
    """Whether there is a GPU for each of `count` processes."""
    import torch

    return torch.cuda.is_available() and torch.cuda.device_count() >= count


def shard_file(folder: Path, shard: str) -> Path:
    """Where the process of `shard`, such as 0/2, leaves its answers."""
    return folder / f"{shard.replace('/', '-of-')}.jsonl"
