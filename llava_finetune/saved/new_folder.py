"""Folders of models: finding one by path or hub id, writing one that appears whole or not at all.

with new_folder(Path("exported")) as partial: ...
"""

from __future__ import annotations

import glob
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from data_prep.errors import first_line
from data_prep.records.json_text import require_regular
from llava_finetune.errors import UsageError, UserError


def resolve_folder(name: str, *, beside: Path | None = None) -> Path:
    """A local folder for a path or a hub id; a relative path is also looked for `beside` the model that names it.

    A hub id is fetched (or found in the cache) with huggingface_hub; HF_HUB_OFFLINE is honoured.
    """
    candidates = [Path(name)] + ([beside / name] if beside else [])
    for candidate in candidates:
        if candidate.is_dir():
            return candidate
    if name.startswith((".", "/", "~")) or name.count("/") != 1:
        raise UserError(f"{name}: no such folder")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, ignore_patterns=["*.msgpack", "*.h5", "*.ot", "*.py"]))
    except Exception as error:
        raise UserError(f"{name}: neither a folder here nor a model that the hub gave ({first_line(error)})") from error


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """A temporary folder beside `target` that becomes it when the block ends well, and vanishes when it does not.

    What a killed process left of an earlier try (it cannot tidy up after itself) is removed first.
    """
    check_free(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(target)
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        yield partial
        if target.is_dir():
            target.rmdir()
        partial.replace(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _remove_abandoned(target: Path) -> None:
    """Remove the temporary folders of processes that are gone; one of a process that runs is left alone."""
    for folder in target.parent.glob(f".{glob.escape(target.name)}.*.partial"):
        owner = folder.name.split(".")[-2]
        if owner.isdigit() and not psutil.pid_exists(int(owner)):
            shutil.rmtree(folder, ignore_errors=True)


def check_free(target: Path) -> None:
    """Refuse a target that holds something already, or cannot be made: before the work, not after it."""
    if not target.name:
        raise UsageError(f"{target}: is no name of a folder; give a new one")
    if (target.is_symlink() or target.exists()) and (not target.is_dir() or any(target.iterdir())):
        raise UsageError(f"{target}: exists and is not empty; give a new folder, nothing is overwritten")
    require_place(target.parent)


def require_place(folder: Path) -> None:
    """Raise UserError unless files can be written into a folder, which need not be there yet; nothing is made."""
    there = next(place for place in (folder, *folder.parents, Path()) if place.is_symlink() or place.exists())
    if not there.is_dir():
        raise UserError(f"{folder}: {there} is no folder; name another place")
    if not os.access(there, os.W_OK | os.X_OK):
        raise UserError(f"{folder}: cannot be written; change who may write {there}, or name another place")


def require_file_place(file: Path) -> None:
    """Raise UserError unless a file can be written, or written anew."""
    if file.is_symlink() or file.exists():
        require_regular(file)
    if not file.name:
        raise UserError(f"{file}: is no name of a file; name the file to be written")
    require_place(file.parent)
