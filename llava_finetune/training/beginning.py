"""How a run begins: its folder, what it was asked, the checkpoint that it goes on from, and whether anything is left.

run = prepare(arguments)
start = find_start(run)                 # Start(checkpoint=None) for a run from the beginning
records = check(run, start)
"""

from __future__ import annotations

import functools
import importlib.util
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data_prep.records.json_text import require_regular
from data_prep.records.record import read_records
from llava_finetune.config.arguments import Arguments
from llava_finetune.data.replay import split_spec
from llava_finetune.errors import UsageError, UserError
from llava_finetune.launching import preflight
from llava_finetune.saved.checkpoints import read_seal, step_of, sweep
from llava_finetune.saved.run_lock import run_lock
from llava_finetune.screen import NAME as DEBUG_LOG
from llava_finetune.screen import debug_to
from llava_finetune.training.data_check import Checked, check_data
from llava_finetune.training.finishing import finish_from, has_ended, show_again, was_finished
from llava_finetune.training.ranks import Group, start_deepspeed
from llava_finetune.training.resume import differences, find, refuse_differences, rewind, settings_of
from llava_finetune.training.schedule import announce

BEFORE_A_STEP = ("run.json", "check.json")
"""What a run writes before its first step."""
WRITTEN_INTO = ("log.jsonl", "run.json")
"""What a run goes on writing into: a FIFO or a device in its place would take the log, or wait for a reader."""


@dataclass(frozen=True)
class Run:
    """One run on one rank: what was asked, where the result goes, and the settings that decide its numbers."""

    arguments: Arguments
    output: Path
    settings: Mapping[str, Any]
    is_main: bool
    group: Group = field(default_factory=Group)

    def say(self, text: str) -> None:
        """Print on the first rank."""
        if self.is_main:
            print(text, flush=True)


@dataclass(frozen=True)
class Start:
    """Where a run starts: at a checkpoint, at the beginning (None), or nowhere because it is finished."""

    checkpoint: Path | None
    is_finished: bool = False


def prepare(arguments: Arguments, locks: ExitStack) -> Run:
    """The run's process group and folder, held by `locks`; says what was understood.

    Raises UserError for a folder in use. One rank looks and takes it, and the others wait for what it says.
    """
    training = arguments.training
    output, is_main = Path(training.output_dir), training.process_index == 0
    say = functools.partial(print, flush=True) if is_main else (lambda *_: None)
    if training.deepspeed:
        _require_launcher(training.deepspeed)
        if is_main:
            drop_stale_locks(say)
        # Without it ZeRO-3's parameter partitioning sees a world of one on CPU.
        start_deepspeed()
    group = Group(training.ddp_timeout_delta)
    group.from_first(lambda: _prepare_output(output, training.resume, locks, say))
    debug_to(output / DEBUG_LOG, native=True)
    for notice in arguments.notices:
        say(notice)
    say(f"precision {arguments.precision.name}: {arguments.precision.reason}")
    return Run(arguments, output, settings_of(arguments), is_main, group)


def _require_launcher(config: Any) -> None:
    """Raise UsageError where nothing says which rank this is: DeepSpeed would ask MPI, and that is not installed."""
    if "RANK" not in os.environ and importlib.util.find_spec("mpi4py") is None:
        raise UsageError(
            f"--deepspeed {config}: DeepSpeed needs a launcher; start with scripts/finetune_lora.sh, or put "
            "`deepspeed --no_local_rank --num_gpus 1 --module` before llava_finetune train, or leave --deepspeed out"
        )


def find_start(run: Run) -> Start:
    """The checkpoint to go on from; what a killed run still owes is written when no step is left to train."""
    training, output = run.arguments.training, run.output
    checkpoint = run.group.from_first(lambda: find(output, training.resume, run.say))
    if checkpoint:
        refuse_differences(checkpoint, run.settings, training.resume_changed, run.say)
    if training.resume != "none" and _is_finished(run, checkpoint):
        at = f"at step {step_of(checkpoint)} " if checkpoint else ""
        run.say(f"{output} is finished {at}already; nothing to do")
        return Start(checkpoint, is_finished=True)
    if checkpoint:
        run.say(f"going on from {checkpoint}")
    return Start(checkpoint)


def check(run: Run, start: Start) -> Any:
    """Take the log back to its start, look at the data, say the steps, before a model is loaded. Returns records."""
    run.group.from_first(lambda: _look_at_data(run, start))
    records = read_enough(Path(run.arguments.data.data_path), run.arguments.training.world_size)
    announce(run.arguments, len(records), run.say)
    return records


def _look_at_data(run: Run, start: Start) -> None:
    """What one rank does of `check`; a million pictures take longer than the others' collectives would wait."""
    sweep(run.output)
    rewind(run.output, step_of(start.checkpoint) if start.checkpoint else -1)
    if run.arguments.data.check_data:
        check_data(_files(run.arguments), run.output, run.say)


def _files(arguments: Arguments) -> list[Checked]:
    """Every records file that the run will read."""
    data = arguments.data
    given = [
        ("--data_path", data.data_path, data.image_folder),
        ("--eval_data_path", data.eval_data_path, data.eval_image_folder),
        ("--probe_data_path", data.probe_data_path, data.probe_image_folder),
        ("--hallucination_data_path", data.hallucination_data_path, data.hallucination_image_folder),
        ("--replay", str(split_spec(data.replay)[0]) if data.replay else None, data.replay_image_folder),
    ]
    return [Checked(flag, path, folder or data.image_folder) for flag, path, folder in given if path]


def read_enough(path: Path, ranks: int) -> Any:
    """The records of a file, one at least for each rank. Raises UserError where there are fewer."""
    records = read_records(path)
    if not len(records):
        raise UserError(f"{path}: no records; nothing to train on")
    if len(records) < ranks:
        raise UserError(f"{path}: {len(records)} record(s) for {ranks} ranks; start at most {len(records)} (NUM_GPUS)")
    return records


def drop_stale_locks(say: Callable[[str], None]) -> None:
    """As the launcher does, for a run that was started without it."""
    # On a shared file system another machine may hold the lock: then only one that is surely dead is removed.
    alone = os.environ.get("MASTER_ADDR", "127.0.0.1") in ("127.0.0.1", "localhost")
    for lock in preflight.drop_stale_locks(preflight.extensions_folder(), min_age=60.0 if alone else 3600.0):
        say(f"removed a lock that a killed build left: {lock}")


def _prepare_output(output: Path, resume: str, locks: ExitStack, say: Callable[[str], None]) -> None:
    """Take the folder, which must be empty for a new run; what a run makes before its first step is taken back."""
    locks.enter_context(run_lock(output, say))
    for name in WRITTEN_INTO:
        if (output / name).exists() or (output / name).is_symlink():
            require_regular(output / name)
    # A run that was refused before its first step leaves these alone: better flags may use the folder.
    entries = [entry.name for entry in output.iterdir()]
    left = [name for name in entries if name[0] != "." and name not in (DEBUG_LOG, "check.json")]
    if resume == "none" and left:
        raise UserError(
            f"{output} already holds something ({', '.join(sorted(left)[:4])}); continue it with --resume auto, "
            "or choose another --output_dir"
        )
    if resume == "none":
        locks.enter_context(taken_back(output))


@contextmanager
def taken_back(output: Path) -> Iterator[None]:
    """Where a new run ends before its first step, remove what it wrote, so that the corrected command can begin."""
    try:
        yield
    except BaseException:
        if not (output / "log.jsonl").is_file() and not any(output.glob("checkpoint-*")):
            for name in BEFORE_A_STEP:
                (output / name).unlink(missing_ok=True)
        raise


def _is_finished(run: Run, checkpoint: Path | None) -> bool:
    """Whether nothing is left to train; a result that a killed run owes is written then."""
    output, settings = run.output, run.settings
    if was_finished(output, checkpoint, settings):
        if run.is_main:
            show_again(output)
        return True
    if checkpoint is None or differences(read_seal(checkpoint)["settings"], settings) or not has_ended(checkpoint):
        return False
    return finish_from(output, checkpoint, settings, run.arguments.keep_best) if run.is_main else True
