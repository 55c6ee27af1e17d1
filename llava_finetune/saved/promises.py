"""What a config promises, against what the weights' headers hold: looked at before a tensor is made.

A config.json that promises a billion layers, or a vocabulary of 10^12 rows, would be built first and compared later.
The headers of the weight files say in a few kilobytes what there is, and a shard is as long as its header says.

    require_kept(Path("runs/base"), read_document(Path("runs/base/config.json")), shapes)
"""

from __future__ import annotations

import ast
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data_prep.errors import DataError, quoted
from data_prep.records.json_text import conform
from llava_finetune.errors import UserError
from llava_finetune.saved.model_documents import Grid

BEFORE_1_6 = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."
"""How a file of torch.save began before it was an archive: a pickle of its magic number, written out so that a plan
needs no torch."""
PROJECTOR = re.compile(r"linear|identity|mlp([1-9]\d{0,1})x_gelu")
MAX_PROJECTOR_DEPTH = 16
LAYER = re.compile(r"(?:^|\.)(?:encoder\.)?layers\.(\d+)\.")
HEADS = ("num_attention_heads", "num_key_value_heads")
BESIDE_LANGUAGE = ("vision_tower", "vision_model", "resampler")
"""In the names of tensors that are not the language model's; a perceiver has layers of its own."""
WHOLE_MODEL = re.compile(r"(?:pytorch_)?model(?:-\d+-of-\d+)?\.(?:safetensors|bin)")
"""Names of the files that hold a whole model, or a part of one."""
Shapes = Mapping[str, tuple[int, ...]]


def written_by_torch(file: Path) -> bool:
    """Whether torch.save wrote a file, today's archive or one from before PyTorch 1.6; told by its first bytes."""
    if zipfile.is_zipfile(file):
        return True
    with file.open("rb") as stream:
        return stream.read(len(BEFORE_1_6)) == BEFORE_1_6


def require_projector(name: str, where: object) -> None:
    """Raise UserError for a projector's type that upstream does not build, or not in a size that anyone trains."""
    found = PROJECTOR.fullmatch(name)
    if found is None or int(found[1] or 1) > MAX_PROJECTOR_DEPTH:
        raise UserError(
            f"{where}: mm_projector_type: expected linear, identity, or mlpNx_gelu with N from 1 to "
            f"{MAX_PROJECTOR_DEPTH}, found {name[:60]!r}"
        )


def require_kept(folder: Path, config: Mapping[str, Any], shapes: Shapes) -> None:
    """Raise UserError where `config` promises more than the tensors of `shapes` (name to shape) hold, or others.

    Quantised weights have shapes of their own, and files from before PyTorch 1.6 tell none: their bytes are compared.
    """
    if config.get("mm_projector_type"):
        require_projector(config["mm_projector_type"], folder / "config.json")
    if config.get("image_aspect_ratio") == "anyres" and not config.get("image_grid_pinpoints"):
        raise UserError(
            f"{folder / 'config.json'}: image_aspect_ratio is anyres, and there are no image_grid_pinpoints; write "
            "pad, or download config.json again from where the weights came from"
        )
    _require_pinpoints(config.get("image_grid_pinpoints"), folder / "config.json")
    text = config.get("text_config") or config
    if config.get("quantization_config") or not shapes:
        _require_bytes(folder, text)
        return
    vision = config.get("vision_config") or (config if "patch_size" in config else {})
    if config.get("model_type") != "siglip":  # transformers writes CLIP's end tokens into SigLIP's smaller vocabulary
        _require_tokens(folder, text)
    language = {name: shape for name, shape in shapes.items() if not any(part in name for part in BESIDE_LANGUAGE)}
    tower = {name: shape for name, shape in shapes.items() if name not in language and "resampler" not in name}
    if "patch_size" not in config:
        _compare(folder, text, language, _language_sizes(text))
    _compare(folder, vision, tower, _tower_sizes(vision))
    _require_patches(folder, vision, tower)


def _require_pinpoints(points: Any, where: object) -> None:
    """Raise UserError for a grid that is written as a text, as old configs do, and is no list of two sides each."""
    if isinstance(points, str) and points.strip():
        try:
            conform([list(pair) for pair in ast.literal_eval(points)], Grid, where)
        except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError, DataError):
            raise UserError(
                f"{where}: image_grid_pinpoints: expected a list of two sides each, such as [[336, 672], [672, 336]], "
                f"found {quoted(points)}; download config.json again from where the weights came from"
            ) from None


def _require_patches(folder: Path, config: Mapping[str, Any], shapes: Shapes) -> None:
    """Raise UserError where a picture would have more patches than there are places for in the tower's weights."""
    places = next((shape[0] for name, shape in shapes.items() if name.endswith("position_embedding.weight")), None)
    image, patch = config.get("image_size"), config.get("patch_size")
    if places and image and patch and (image // patch) ** 2 > places:
        raise UserError(
            f"{folder / 'config.json'}: image_size: {image:,} is promised, {(image // patch) ** 2:,} patches of "
            f"{patch}, the weights have places for {places:,}; download config.json again from where the weights came "
            "from"
        )


def _require_bytes(folder: Path, config: Mapping[str, Any]) -> None:
    """Raise UserError where the weight files could not hold the promised layers even at half a byte a parameter.

    An adapter or a projector stands beside the config of its whole base and holds none of its layers. A file that torch
    did not write is refused by those that open it.
    """
    hidden, inner = config.get("hidden_size") or 0, config.get("intermediate_size") or 0
    parameters = 2 * (config.get("num_hidden_layers") or 0) * hidden * inner + (config.get("vocab_size") or 0) * hidden
    files = [file for file in folder.iterdir() if WHOLE_MODEL.fullmatch(file.name)]
    if any(file.suffix == ".bin" and not written_by_torch(file) for file in files):
        return
    held = sum(file.stat().st_size for file in files)
    if held and parameters // 2 > held:
        raise UserError(
            f"{folder / 'config.json'}: {parameters:,} parameters and more are promised, the weights have {held:,} "
            "bytes; download config.json again from where the weights came from"
        )


def require_select_layer(layer: int, num_layers: int, where: object) -> None:
    """Raise UserError where the features of a layer are asked for that the tower has not."""
    if not -num_layers - 1 <= layer <= num_layers:
        raise UserError(
            f"{where}: mm_vision_select_layer: expected {-num_layers - 1} to {num_layers} for a tower of {num_layers} "
            f"layers, found {layer}"
        )


def _require_tokens(folder: Path, config: Mapping[str, Any]) -> None:
    for key in ("bos_token_id", "eos_token_id", "pad_token_id"):
        ids = config.get(key)
        largest = max((one for one in (ids if isinstance(ids, list) else [ids]) if one is not None), default=-1)
        if config.get("vocab_size") and largest >= config["vocab_size"]:
            raise UserError(
                f"{folder / 'config.json'}: {key}: expected an id below vocab_size {config['vocab_size']:,}, found "
                f"{largest:,}; download config.json again from where the weights came from"
            )


def _compare(folder: Path, config: Mapping[str, Any], shapes: Shapes, sizes: Mapping[str, dict[int, Any]]) -> None:
    numbers = {int(found[1]) for found in map(LAYER.search, shapes) if found}
    promised = config.get("num_hidden_layers")
    if numbers and promised and promised > len(numbers):
        raise UserError(
            f"{folder / 'config.json'}: num_hidden_layers: {promised:,} are promised, the weights hold "
            f"{len(numbers):,}; download config.json again from where the weights came from"
        )
    for ending, axes in sizes.items():
        found = next(((name, shape) for name, shape in shapes.items() if name.endswith(ending)), None)
        for axis, (key, value) in axes.items():
            if found and value and axis < len(found[1]) and found[1][axis] != value:
                raise UserError(
                    f"{folder / 'config.json'}: {key}: {value:,} is promised, the weights hold {found[1][axis]:,} "
                    f"({found[0]}); download config.json again from where the weights came from"
                )


def _language_sizes(config: Mapping[str, Any]) -> dict[str, dict[int, Any]]:
    """Endings of tensor names, with the config's field for each axis."""
    get = config.get
    size = get("head_dim")
    heads = [int(get(name) or 0) * size if size else None for name in HEADS]
    return {
        "self_attn.q_proj.weight": {0: ("num_attention_heads x head_dim", heads[0])},
        "self_attn.k_proj.weight": {0: ("num_key_value_heads x head_dim", heads[1])},
        "embed_tokens.weight": {0: ("vocab_size", get("vocab_size")), 1: ("hidden_size", get("hidden_size"))},
        "lm_head.weight": {0: ("vocab_size", get("vocab_size")), 1: ("hidden_size", get("hidden_size"))},
        "mlp.up_proj.weight": {0: ("intermediate_size", get("intermediate_size"))},
    }


def _tower_sizes(config: Mapping[str, Any]) -> dict[str, dict[int, Any]]:
    get = config.get
    return {
        "embeddings.patch_embedding.weight": {
            0: ("hidden_size", get("hidden_size")),
            2: ("patch_size", get("patch_size")),
        },
        "mlp.fc1.weight": {0: ("intermediate_size", get("intermediate_size"))},
    }
