"""A frozen vision tower's features on disk: a picture that any run has encoded is neither decoded nor encoded again.

A file is named by the picture's bytes, in a folder named by all that decides its features: the tower's weights, layer,
dtype and device, the image processor, the aspect ratio, the libraries. Files appear whole or not at all, and none is
written beyond the limit; a damaged one counts as missing. Deleting the folder loses nothing but time.

    cache = FeatureCache(Path("features"), fingerprint(tower, model.config, "bf16"), max_bytes=50 * 10**9)
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import PIL
import torch
import transformers
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from data_prep.records.picture import VERSION as PICTURE_VERSION

CONFIG = ("image_aspect_ratio", "image_grid_pinpoints", "mm_vision_select_layer", "mm_vision_select_feature")


@dataclass(frozen=True)
class Known:
    """What the cache holds of a picture: features (views x patches x channels, float32) and its (width, height)."""

    features: torch.Tensor
    size: tuple[int, int]


class FeatureCache:
    """Features by the hash of a picture's bytes. Any number of processes read and write one folder."""

    def __init__(self, folder: Path, fingerprint: str, max_bytes: int) -> None:
        self.folder = folder / fingerprint
        self.left = max_bytes - sum(file.stat().st_size for file in folder.rglob("*.safetensors"))

    def key(self, picture: Path) -> str | None:
        """The name of a picture's features; None where it cannot be read, which its opening will explain."""
        try:
            return hashlib.sha256(picture.read_bytes()).hexdigest()
        except OSError:
            return None

    def find(self, key: str | None) -> Known | None:
        """What is kept under a name, or None."""
        if key is None:
            return None
        try:
            with safe_open(self._file(key), framework="pt") as file:
                width, height = map(int, file.metadata()["size"].split("x"))
                return Known(file.get_tensor("features").float(), (width, height))
        except (OSError, SafetensorError):
            return None

    def keep(self, keys: Sequence[str | None], features: Sequence[torch.Tensor], sizes: Sequence[Any]) -> None:
        """Write features (views x patches x channels of each picture) until the limit or the disk is reached.

        A blank picture, at the end of `features`, has no key.
        """
        for key, one, (width, height) in zip(keys, features, sizes, strict=False):
            if key is None or self.left <= 0:
                continue
            content = save({"features": _narrow(one)}, {"size": f"{width}x{height}"})
            if len(content) > self.left:
                self._stop("its limit is reached; raise --cache_gb or delete what other runs left")
                return
            try:
                _write(self._file(key), content)
            except OSError as error:
                self._stop(str(error))
                return
            self.left -= len(content)

    def _file(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.safetensors"

    def _stop(self, reason: str) -> None:
        self.left = 0
        print(f"--cache_features {self.folder}: no further features are kept: {reason}", flush=True)


def _narrow(features: torch.Tensor) -> torch.Tensor:
    """Features as bf16 where that loses nothing, as when the tower computes in it."""
    whole = features.detach().cpu().contiguous()
    half = whole.bfloat16()
    return half if torch.equal(half.to(whole.dtype), whole) else whole


def fingerprint(tower: Any, config: Any, precision: str) -> str:
    """A name for all that decides a picture's features beside the picture. Reads the tower's weights once."""
    facts = {
        "precision": precision,
        **{name: getattr(config, name, None) for name in CONFIG},
        "processor": tower.image_processor.to_dict(),
        "attention": tower.config._attn_implementation,
        "dtype": str(tower.dtype),
        "device": tower.device.type,
        "opened": PICTURE_VERSION,
        "libraries": [PIL.__version__, transformers.__version__, torch.__version__],
    }
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode())
    for name, value in sorted(tower.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def reason_against(tower: Any, unpadded: bool, zero_stage: int) -> str | None:
    """Why a run cannot use kept features, or None where it can."""
    if any(parameter.requires_grad for parameter in tower.parameters()):
        return "the vision tower is trained, so that its features change at every step"
    if not unpadded:
        return "batches are padded; it needs --unpadded True"
    if zero_stage == 3:
        return "under ZeRO-3 every rank has to run the tower in every step"
    return None


def _write(file: Path, content: bytes) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=file.parent, suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
        Path(name).replace(file)
    except OSError:
        Path(name).unlink(missing_ok=True)
        raise
