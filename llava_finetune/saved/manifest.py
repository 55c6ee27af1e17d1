"""What a saved folder is and what it was made from: `llava_finetune.json` beside weights, `run.json` in a run.

A model is known by its files, never by its folder's name: merge, evaluate, chat and export read the manifest.

    write_manifest(folder, kind="adapter", base="runs/base", conversation="chatml_direct", dtype="bfloat16")
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import platform
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data_prep.files import sha256_of
from data_prep.files import write_json as write_unsorted
from llava_finetune.errors import UserError
from llava_finetune.flags import without_secrets
from llava_finetune.saved.documents import read_document
from llava_finetune.saved.model_files import BESIDE_ADAPTER, MANIFEST, PROJECTOR_WEIGHTS

NAME = MANIFEST
PACKAGES = ("torch", "transformers", "tokenizers", "peft", "accelerate", "deepspeed", "bitsandbytes", "safetensors")
WEIGHTS = ("*.safetensors", "pytorch_model*.bin", PROJECTOR_WEIGHTS)
"""A model's weights, the first kind that a folder has: what a loader reads of it. A clone of a hub's repository holds
other kinds beside it, a hub's cache does not."""


write_json = functools.partial(write_unsorted, sort_keys=True)
"""As data_prep's, with the keys in order: two files of the same content are the same bytes."""


def read_json(path: Path) -> Any:
    """Read a JSON file of the kind that its name says; what is wrong is a UserError that names file and place."""
    return read_document(path)


def local_folder(name: str | Path) -> Path | None:
    """The folder itself, or a hub id's files in the cache; None where neither is on this machine."""
    if Path(name).is_dir():
        return Path(name)
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(str(name), local_files_only=True))
    except (OSError, ValueError):
        return None


def weights_sha256(model: str | Path) -> str | None:
    """One hash over the names and bytes of a folder's weight files (a hub id's in the cache), None where none are."""
    folder = local_folder(model)
    files = next((found for kind in WEIGHTS if folder and (found := sorted(folder.glob(kind)))), None)
    if not folder or not files:
        return None
    files += folder.glob(BESIDE_ADAPTER)
    digest = hashlib.sha256()
    for file in files:
        state = file.stat()
        digest.update(f"{file.name} {_known_sha256(file, state.st_size, state.st_mtime_ns)}\n".encode())
    return digest.hexdigest()


def scored_hashes(model: str | Path, base: str | Path | None = None) -> dict[str, str | None]:
    """What a score belongs to: the hash of the model's weights, and of the base's where the model is an adapter."""
    kept = read_manifest(model).get("base_sha256")
    return {"model_sha256": weights_sha256(model), "base_sha256": kept or (weights_sha256(base) if base else None)}


@functools.lru_cache(maxsize=256)
def _known_sha256(path: Path, size: int, modified: int) -> str:
    """A file's hash, read once for as long as its size and time stay: every checkpoint names its base's."""
    return sha256_of(path)


def upstream_stamp() -> dict[str, str]:
    """Upstream's commit and the series hash of the patched tree that is imported; a stale tree is refused."""
    from patches.stamp import StaleTree, require_current

    try:
        stamp = require_current()
    except StaleTree as error:
        raise UserError(str(error)) from None
    upstream: Any = stamp["upstream"]
    return {"upstream_commit": str(upstream["commit"]), "series": str(stamp["series"])}


def write_manifest(
    folder: Path, *, kind: str, base: str | None, conversation: str, dtype: str, **more: Any
) -> dict[str, Any]:
    """Write `llava_finetune.json`. `kind`: adapter, model or projector. Returns what was written."""
    base_folder = Path(base) if base else None
    value = {
        "kind": kind,
        "base": str(base_folder.resolve()) if base_folder and base_folder.is_dir() else base,
        "base_sha256": weights_sha256(base) if base else None,
        "conversation": conversation,
        "dtype": dtype,
        **upstream_stamp(),
        **more,
    }
    write_json(folder / NAME, value)
    return value


def read_manifest(folder: str | Path) -> dict[str, Any]:
    """The folder's manifest, empty when it has none (upstream's own checkpoints)."""
    path = Path(folder) / NAME
    return dict(read_json(path)) if path.is_file() else {}


def _git_commit() -> str | None:
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    done = subprocess.run(["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return done.stdout.strip() or None


def run_manifest(command: Sequence[str], arguments: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """Everything needed to repeat a run: command, versions, upstream pin, series, seed, arguments, machine."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "command": without_secrets(command),
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "git_commit": _git_commit(),
        **upstream_stamp(),
        "versions": versions,
        "platform": platform.platform(),
        "arguments": dict(arguments),
        **more,
    }
