"""Checkpoint folders that are whole or not there: written aside, sealed with hashes of their files, then renamed.

folder = output / STAGING / "checkpoint-20"      # every file of the checkpoint is written into it
seal(folder, {"step": 20})
publish(folder, output)                          # output/checkpoint-20
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data_prep.errors import printable, shortened
from llava_finetune.errors import UserError
from llava_finetune.saved.digests import digests, settled, sync
from llava_finetune.saved.manifest import read_json, write_json
from llava_finetune.saved.model_files import ADAPTER_CONFIG, MANIFEST, PROJECTOR_WEIGHTS

SEAL = "checkpoint.json"
MOST_NAME = 255
"""Characters of a file's name in a seal: more than any that is written."""
STAGING = ".saving"
DELETING = ".deleting"
NAME = re.compile(r"checkpoint-(\d+)")
# What tells a loader that a folder is a model: these go last into a result that is moved file by file.
DECIDING = (PROJECTOR_WEIGHTS, ADAPTER_CONFIG, "config.json", MANIFEST)
# What only a resumed training reads.
TRAINING_ONLY = re.compile(
    r"optimizer\.pt|scheduler\.pt|scaler\.pt|rng_state.*\.pth|position.*\.pth|trainer_state\.json|global_step\d+|latest"
    r"|zero_to_fp32\.py|checkpoint\.json"
)


def step_of(folder: Path) -> int:
    """The step in a checkpoint's name, -1 where it has none."""
    found = NAME.fullmatch(folder.name)
    return int(found.group(1)) if found else -1


def seal(folder: Path, facts: Mapping[str, Any]) -> None:
    """Write `checkpoint.json`, last of all files: `facts`, and of every other file its size and hash.

    All of it is on the disk (fsync) when this returns, so that a rename after it never shows a folder of empty files.
    """
    files = [file for file in sorted(folder.rglob("*")) if file.is_file()]
    names = [file.relative_to(folder).as_posix() for file in files]
    write_json(folder / SEAL, {**facts, "files": dict(zip(names, settled(files), strict=True))})
    for path in (folder / SEAL, *(inner for inner in folder.rglob("*") if inner.is_dir()), folder):
        sync(path)


def read_seal(folder: Path) -> dict[str, Any]:
    """What `seal` wrote; empty for a folder that was never sealed."""
    return dict(read_json(folder / SEAL)) if (folder / SEAL).exists() else {}


def fault_of(folder: Path, *, contents: bool = False) -> str | None:
    """Why a checkpoint is not whole, None when it is. Unsealed folders (upstream's) count as not whole.

    With `contents` every file is read and compared with its hash; seals of older runs hold sizes alone.
    """
    if not (folder / SEAL).exists():
        return f"no {SEAL}; it was not finished, or not written by llava-finetune"
    try:
        files = read_seal(folder)["files"]
    except UserError as error:
        return f"its seal is damaged: {error}"
    hashes: dict[str, str] = {}
    for name, kept in files.items():
        size = kept["bytes"] if isinstance(kept, dict) else kept
        if fault := _size_fault(folder, name, size):
            return fault
        if isinstance(kept, dict):
            hashes[name] = kept["xxh3_128"]
    return _content_fault(folder, hashes) if contents else None


def _size_fault(folder: Path, name: str, size: int) -> str | None:
    if ".." in Path(name).parts or Path(name).is_absolute() or "\0" in name:
        return f"its seal names {name[:80]!r}, which is not inside of it"
    file = folder / name
    if len(name) > MOST_NAME or not file.is_file():
        return f"{shortened(printable(name))} is missing"
    if file.stat().st_size != size:
        return f"{name} has {file.stat().st_size:,} bytes instead of {size:,}; it was cut off or changed"
    return None


def _content_fault(folder: Path, hashes: Mapping[str, str]) -> str | None:
    try:
        found = digests([folder / name for name in hashes])
    except OSError as error:
        return f"a file of it cannot be read ({error.strerror}: {error.filename})"
    for (name, kept), now in zip(hashes.items(), found, strict=True):
        if now != kept:
            return f"{name} is damaged: it holds other bytes than were written (XXH3-128 {now[:12]}, not {kept[:12]})"
    return None


def require_whole(folder: Path) -> None:
    """Raise UserError when a sealed checkpoint lacks a file or holds a part of one."""
    fault = fault_of(folder) if (folder / SEAL).is_file() else None
    if fault:
        raise UserError(f"{folder}: {fault}; use another checkpoint, or copy it again")


def checkpoints(output: Path) -> list[Path]:
    """Whole checkpoints of a run, oldest step first."""
    found = [path for path in output.glob("checkpoint-*") if step_of(path) >= 0 and fault_of(path) is None]
    return sorted(found, key=step_of)


def publish(folder: Path, output: Path) -> Path:
    """Give a sealed folder its name in `output`, in one rename; an older one of that name makes way first."""
    final = output / folder.name
    if final.exists():
        remove(final)
    folder.rename(final)
    sync(output)
    return final


def remove(folder: Path) -> None:
    """Delete a folder that nobody sees half deleted: it loses its name first."""
    aside = folder.parent / DELETING / f"{folder.name}.{os.getpid()}"
    aside.parent.mkdir(exist_ok=True)
    folder.rename(aside)
    shutil.rmtree(aside.parent)


def sweep(output: Path) -> None:
    """Remove what a killed save or deletion left behind."""
    for name in (STAGING, DELETING):
        shutil.rmtree(output / name, ignore_errors=True)


def rotate(output: Path, limit: int | None, best_step: int | None) -> list[Path]:
    """Delete all but the newest `limit` whole checkpoints (None: all stay), never the best, never the last one."""
    whole = checkpoints(output)
    if not limit or limit < 0:
        return []
    dropped = [path for path in whole[: -max(limit, 1)] if step_of(path) != best_step]
    for path in dropped:
        remove(path)
    return dropped


def publish_result(staging: Path, output: Path) -> None:
    """Move a finished result's files into the run's folder; those that make it loadable go last."""
    files = sorted(staging.iterdir(), key=lambda path: (path.name in DECIDING, path.name))
    for name in DECIDING:
        (output / name).unlink(missing_ok=True)
    for file in files:
        if file.is_file():
            file.replace(output / file.name)
    shutil.rmtree(staging)


def copy_result(checkpoint: Path, staging: Path) -> None:
    """Copy what is of use for inference from a checkpoint into `staging`."""
    staging.mkdir(parents=True, exist_ok=True)
    for file in checkpoint.iterdir():
        if file.is_file() and not TRAINING_ONLY.fullmatch(file.name):
            shutil.copyfile(file, staging / file.name)
