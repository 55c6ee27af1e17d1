"""Run a launch, and after out of memory run it again in smaller micro-batches: the same records make every step.

One process halves its batch by itself (`out_of_memory`). Ranks cannot, because the others wait in a collective: they
end together with their own exit code, and the launcher starts them again from the last whole checkpoint.

    run_until_it_fits(["deepspeed", ...], os.environ, batch=4, accumulation=8)
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from llava_finetune.errors import OutOfMemoryError
from llava_finetune.flags import flag, is_true
from llava_finetune.launching.launcher_lines import say
from llava_finetune.launching.processes import run


def halved(batch: int, accumulation: int, sharing: int = 0) -> tuple[str, ...]:
    """Flags for half the micro-batch (one record, where it is odd) in the same global batch; none below one record.

    `sharing` records are put together by their pictures: so many stay, whatever the micro-batch, in the same order.
    """
    if batch < 2:
        return ()
    size = batch // 2 if batch % 2 == 0 else 1
    steps = str(accumulation * batch // size)
    smaller = ("--resume", "auto", "--per_device_train_batch_size", str(size), "--gradient_accumulation_steps", steps)
    return (*smaller, "--share_among", str(sharing)) if sharing else smaller


def run_until_it_fits(
    command: Sequence[str],
    environment: Mapping[str, str],
    batch: int,
    accumulation: int,
    shared: Path | None = None,
) -> int:
    """Exit code of `command`; `batch` records per device and `accumulation` steps are what it was started with.

    `shared`: a folder that all machines of the run see. Each of their launchers reads there how a try ended, and so
    does the same; a file per try, for one launcher may begin the next before another has read of the last.
    """
    failures = _failure_files(shared)
    is_sharing = is_true(flag(command, "--share_pictures"))
    sharing = (int(flag(command, "--share_among") or 0) or batch) if is_sharing else 0
    code = run(command, environment, next(failures))
    while code == OutOfMemoryError.exit_code and (smaller := halved(batch, accumulation, sharing)):
        batch, accumulation = int(smaller[3]), int(smaller[5])
        say(f"# out of memory: once more, from the last checkpoint, with {' '.join(smaller[2:])}", sys.stdout)
        command = [*command, *smaller]
        code = run(command, environment, next(failures))
    return code


def _failure_files(shared: Path | None) -> Iterator[Path | None]:
    if shared is None:
        yield from itertools.repeat(None)
        return
    shared.mkdir(parents=True, exist_ok=True)
    for old in shared.glob(".failure-*.json"):
        old.unlink(missing_ok=True)
    yield from (shared / f".failure-{number}.json" for number in itertools.count(1))
