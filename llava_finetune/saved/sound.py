"""A model folder looked at before anything of it is made: the one border that every command loads models through.

What a stranger's folder may hold instead of a model: JSON of other types, a FIFO in a file's place, a pickle that runs
code, an index that names files elsewhere, a config that promises more than the weights hold.

    require_sound("runs/mine")
"""

from __future__ import annotations

import functools
import json
import struct
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

import msgspec

from llava_finetune.errors import UserError, is_echo
from llava_finetune.saved.checkpoints import TRAINING_ONLY
from llava_finetune.saved.documents import KINDS, read_document
from llava_finetune.saved.model_files import TOKENIZER_FILES
from llava_finetune.saved.pickles import load_pickle, require_file
from llava_finetune.saved.promises import require_kept

READ = (".json", ".safetensors", ".bin", ".model", ".jinja", ".pt", ".pth")
"""Endings of what is read of a model folder."""
STEPS = {
    "do_resize": ("size", "resample"),
    "do_center_crop": ("crop_size",),
    "do_rescale": ("rescale_factor",),
    "do_normalize": ("image_mean", "image_std"),
}
"""What each step of a preprocessor_config.json needs; what is not written is the processor's own default."""
MAX_HEADER = 100_000_000
"""Bytes of a safetensors header, as the format itself allows."""


def require_sound(folder: str | Path) -> None:
    """Raise UserError for the first thing in a model folder that cannot be what it is called.

    A hub id, and a folder that is not there, are left to what asks for them. A folder is looked at once in a process
    for as long as its files stay.
    """
    path = Path(folder)
    if path.is_dir():
        _look(path, tuple(sorted((file.name, *_state(file)) for file in path.iterdir() if file.suffix in READ)))


@contextmanager
def blamed_on(folder: str | Path, what: str, remedy: str) -> Iterator[None]:
    """Tell an error that a library raised over a folder's files as the folder's, in one line that names the folder.

    What is in its files was looked at before; what only the library can know (a name that it has not, sizes that do
    not fit one another) it says in errors of any kind.
    """
    try:
        yield
    except (UserError, MemoryError, torch_memory_error()):
        raise
    except Exception as error:
        is_networks = type(error).__name__.startswith("Dist")  # torch.distributed's own, which need not be loaded
        if is_networks or is_echo(error):  # or another rank is gone: no file is to blame
            raise
        said = [line for line in str(error).strip().splitlines() if line.strip()]
        detail = f"{type(error).__name__}: {said[0].strip()[:300]}" if said else type(error).__name__
        named = _unreadable(Path(folder))
        raise UserError(f"{folder}: {what}: {f'{named}: ' if named else ''}{detail}; {remedy}") from error


def _unreadable(folder: Path) -> str | None:
    """The first text file that a loader reads and that is not what its ending says: the libraries do not name it."""
    for file in sorted(folder.iterdir()) if folder.is_dir() else ():
        if not file.is_file() or not (file.name in {*KINDS, *TOKENIZER_FILES} or file.suffix == ".jinja"):
            continue
        try:
            if file.suffix == ".json":
                msgspec.json.decode(file.read_bytes())
            elif file.suffix in (".jinja", ".txt"):
                file.read_text(encoding="utf-8")
        except (OSError, ValueError, RecursionError):
            return file.name
    return None


def torch_memory_error() -> type[Exception]:
    """torch's own error for a GPU that is full, where torch is loaded: nobody's file is to blame for that."""
    found: type[Exception] = getattr(sys.modules.get("torch"), "OutOfMemoryError", MemoryError)
    return found


def _state(file: Path) -> tuple[int, int]:
    try:
        state = file.stat()
    except OSError:
        return (0, 0)
    return state.st_size, state.st_mtime_ns


@functools.lru_cache(maxsize=64)
def _look(folder: Path, files: tuple[tuple[str, int, int], ...]) -> None:
    documents: dict[str, Any] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    for name, _, _ in files:
        file = folder / name
        if not file.is_symlink() or file.exists():
            require_file(file)
        elif TRAINING_ONLY.fullmatch(name):
            continue
        elif name in KINDS or file.suffix != ".json":  # what is left out would be taken by a library's own default
            raise UserError(f"{file}: is a link to {file.readlink()}, where no file is; copy that file to its place")
        if file.suffix == ".model" and file.stat().st_size == 0:
            raise UserError(f"{file}: is empty; copy it again from where the model came from")
        if name in KINDS and file.is_file():
            documents[name] = read_document(file)
            if name.endswith(".index.json"):
                require_inside(file, documents[name]["weight_map"])
        elif file.suffix == ".safetensors":
            shapes |= _shapes(file)
        elif file.suffix == ".bin" and name.startswith("pytorch_model") and zipfile.is_zipfile(file):
            shapes |= _pickled_shapes(file)
    _require_steps(folder / "preprocessor_config.json", documents.get("preprocessor_config.json") or {})
    _require_picture_size(folder, documents)
    if "config.json" in documents:
        is_adapter = "adapter_config.json" in documents
        require_kept(folder, documents["config.json"], {} if is_adapter else shapes)


def require_inside(index: Path, shards: dict[str, str]) -> None:
    """Raise UserError where an index names a shard outside of its folder."""
    for shard in set(shards.values()):
        parts = PurePosixPath(shard.replace("\\", "/")).parts
        if not parts or parts[0] == "/" or ".." in parts or ":" in parts[0] or "\0" in shard:
            raise UserError(
                f"{index}: weight_map names {shard[:80]!r}, which is not inside of the folder; download the index again"
            )


def header_of(file: Path) -> dict[str, Any]:
    """The header of a safetensors file without its metadata: a row for each tensor. Raises UserError where the file is
    not whole: without a header, or of another size than its header promises."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        head = stream.read(8)
        length = struct.unpack("<Q", head)[0] if len(head) == 8 else 0
        text = stream.read(length) if 0 < length <= min(MAX_HEADER, size) else b""
    try:
        header = {name: row for name, row in json.loads(text).items() if name != "__metadata__"}
        promised = 8 + length + max((row["data_offsets"][1] for row in header.values()), default=0)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError):
        raise _not_whole(file, f"{size:,} bytes, no header") from None
    if size != promised:
        raise _not_whole(file, f"{size:,} bytes, its header promises {promised:,}")
    return header


def _not_whole(file: Path, found: str) -> UserError:
    return UserError(f"{file}: the shard is not whole ({found}); download or copy it again")


def _shapes(file: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a safetensors file's tensors, from its header alone; empty where that says something else."""
    try:
        return {name: tuple(map(int, row["shape"])) for name, row in header_of(file).items()}
    except (ValueError, KeyError, TypeError):
        return {}


def _pickled_shapes(file: Path) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in load_pickle(file).items()}


def _require_steps(file: Path, steps: dict[str, Any]) -> None:
    """Raise UserError for a step of preparing a picture that is asked for, and whose numbers are taken away."""
    for step, names in STEPS.items():
        if steps.get(step) and (gone := [name for name in names if steps.get(name, 0) is None]):
            raise UserError(f"{file}: {step} is true, and {gone[0]} is null; download it again from where it came from")


def _require_picture_size(folder: Path, documents: dict[str, Any]) -> None:
    """A tower sees pictures of one size: what cuts them must say the same.

    DINOv2 is published with another one: it is always used at its own image_size.
    """
    config = documents.get("config.json") or {}
    if str(config.get("model_type", "")).startswith("dinov2"):
        return
    config = config.get("vision_config") or config
    crop = (documents.get("preprocessor_config.json") or {}).get("crop_size")
    sides = crop.values() if isinstance(crop, dict) else crop if isinstance(crop, list) else [crop]
    size = config.get("image_size")
    wrong = next((side for side in sides if side and size and side != size), None)
    if wrong and "patch_size" in config:
        raise UserError(
            f"{folder / 'preprocessor_config.json'}: crop_size: expected the tower's image_size {size}, found {wrong}; "
            "download both files again from where the tower came from"
        )
