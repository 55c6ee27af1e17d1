"""The shape of a model from its config alone.

Configs are read in upstream's layout, in llava-hf's, or as a plain language model; the published ones are built in
(llava_finetune/planning/known_models.json), so that a plan needs no download.

    >>> read_shape("liuhaotian/llava-v1.5-7b").language.num_parameters
    6738415616
"""

import difflib
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from data_prep.errors import quoted
from llava_finetune.errors import UserError
from llava_finetune.kernels.known_norms import NORMS
from llava_finetune.planning.family_pictures import COSTS, Widths, picture_cost
from llava_finetune.planning.shapes import DinoV2, FamilyShape, Language, Shape, SigLip, Vision
from llava_finetune.saved.documents import read_document
from llava_finetune.saved.model_files import ADAPTER_CONFIG
from llava_finetune.saved.model_names import require_there
from llava_finetune.saved.promises import require_projector
from llava_finetune.saved.supported import CLIPS, LANGUAGES, read_pinpoints

KNOWN_MODELS = Path(__file__).with_name("known_models.json")
DEFAULT_TOWER = "openai/clip-vit-large-patch14-336"
IDEFICS = {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32}


def read_shape(model: str, vision_tower: str | None = None) -> Shape:
    """The shape of a hub id that is built in, or of a folder with config.json. UserError says what else is possible."""
    config, where = read_config(model)
    return replace(shape_of(config, where, vision_tower), name=str(model))


def read_config(model: str) -> tuple[dict[str, Any], str]:
    """The config of a hub id that is built in or of a folder, and where it is from: an adapter's is its base's."""
    folder = Path(model)
    if (folder / "config.json").is_file():
        return _load(folder / "config.json"), str(model)
    if (folder / ADAPTER_CONFIG).is_file():
        base = _load(folder / ADAPTER_CONFIG).get("base_model_name_or_path")
        if not base or ((Path(base) / ADAPTER_CONFIG).is_file() and not (Path(base) / "config.json").is_file()):
            raise UserError(
                f"{folder / ADAPTER_CONFIG}: base_model_name_or_path: expected a base model, found {quoted(base)}; "
                "give the base itself"
            )
        return read_config(base)
    known = json.loads(KNOWN_MODELS.read_text(encoding="utf-8"))["models"]
    if model in known:
        return dict(known[model]), model
    if folder.is_dir():
        raise UserError(f"{model}: no config.json in it; give a model folder")
    require_there(model)
    near = [one for one in known if one.startswith(model)] or difflib.get_close_matches(model, known, 1, 0.8)
    meant = f"did you mean {near[0]}? Else " if near else ""
    raise UserError(
        f"{model}: neither a folder with config.json nor a hub id that is built in; {meant}download its config.json "
        f"into a folder and give that, or one of: {', '.join(known)}"
    )


def shape_of(config: Mapping[str, Any], name: str, vision_tower: str | None = None) -> Shape:
    """The shape that a config.json describes (upstream's, llava-hf's, or a plain language model's)."""
    if config.get("model_type") in COSTS:
        return _family_shape(config, name)
    family = config.get("model_type") or "llama"
    if config.get("text_config") and family in ("llava", "llava_next"):
        return _hf_shape(config, name)
    if config.get("text_config") or family not in LANGUAGES:
        known = ", ".join((*LANGUAGES, "llava_next", *COSTS))
        raise UserError(f"{name}: model family {family!r} is not supported; known: {known}")
    tower = vision_tower or config.get("mm_vision_tower") or DEFAULT_TOWER
    projector = config.get("mm_projector_type") or ("linear" if "mm_vision_tower" in config else "mlp2x_gelu")
    require_projector(projector, name)
    return Shape(
        name=name,
        language=_language(config, family),
        vision=_tower(str(tower), name),
        projector=projector,
        anyres=(anyres := config.get("image_aspect_ratio") == "anyres"),
        pinpoints=read_pinpoints(config.get("image_grid_pinpoints"), name) if anyres else (),
        select_layer=int(config.get("mm_vision_select_layer") or -2),
    )


def _hf_shape(config: Mapping[str, Any], name: str) -> Shape:
    text = config["text_config"]
    language = _language({**text, "vocab_size": text.get("vocab_size") or 32064}, text.get("model_type") or "llama")
    known = json.loads(KNOWN_MODELS.read_text(encoding="utf-8"))
    vision = dict(config.get("vision_config") or {})
    if vision.get("model_type", CLIPS[0]) in CLIPS:
        vision = {**known["towers"][DEFAULT_TOWER], **vision}
    anyres = config.get("model_type") == "llava_next"
    points = read_pinpoints(config.get("image_grid_pinpoints"), name) if anyres else ()
    return Shape(name, language, _vision(vision), "mlp2x_gelu", anyres, points)


def _family_shape(config: Mapping[str, Any], name: str) -> FamilyShape:
    text = config.get("text_config") or {**IDEFICS, **config}
    vision = dict(config.get("vision_config") or {})
    vision["hidden_size"] = vision.get("hidden_size") or vision.get("embed_dim")
    tower = _vision(vision)
    language = _language(text, text.get("model_type") or "llama")
    crossed = language.layers // int(config.get("cross_layer_interval") or 10**9)
    language = replace(
        language,
        layers=language.layers + crossed,
        vocabulary=language.vocabulary + int(config.get("additional_vocab_size") or 0),
        tied=bool(config.get("tie_word_embeddings", language.tied)),
        kernel_norms=False,
    )
    widths = Widths(language.hidden, language.intermediate, tower.hidden, tower.image_size, tower.patch_size)
    cost = picture_cost(config, widths)
    return FamilyShape(
        name, language, SigLip(**vars(tower)), "connector", select_layer=-1, picture=cost, cross_layers=crossed
    )


def _language(config: Mapping[str, Any], family: str) -> Language:
    mistral = "mistral" in family
    heads = int(config.get("num_attention_heads") or 32)
    hidden = int(config.get("hidden_size") or 4096)
    return Language(
        hidden=hidden,
        intermediate=int(config.get("intermediate_size") or (14336 if mistral else 11008)),
        layers=int(config.get("num_hidden_layers") or 32),
        heads=heads,
        kv_heads=int(config.get("num_key_value_heads") or (8 if mistral else heads)),
        head_size=int(config.get("head_dim") or hidden // heads),
        vocabulary=int(config.get("vocab_size") or 32000),
        tied=bool(config.get("tie_word_embeddings", "gemma" in family)),
        kernel_norms=family.removeprefix("llava_") in (*NORMS, "llava"),
    )


def _tower(tower: str, model: str) -> Vision:
    towers = json.loads(KNOWN_MODELS.read_text(encoding="utf-8"))["towers"]
    for folder in (Path(tower), Path(model) / tower):
        if (folder / "config.json").is_file():
            config = _load(folder / "config.json")
            return _vision(config.get("vision_config") or config)
    if tower not in towers:
        raise UserError(
            f"{model}: vision tower {tower} is neither a folder nor built in; give --vision_tower with a folder "
            f"or one of: {', '.join(towers)}"
        )
    return _vision(towers[tower])


def _vision(config: Mapping[str, Any]) -> Vision:
    kind = str(config.get("model_type", ""))
    if kind.startswith("siglip"):  # published files leave out what is transformers' default
        known = json.loads(KNOWN_MODELS.read_text(encoding="utf-8"))["towers"]
        config = {**known["google/siglip-base-patch16-224"], **config}
    if kind.startswith("dinov2"):  # its layers are told by a ratio
        inner = int((config.get("hidden_size") or 768) * (config.get("mlp_ratio") or 4))
        config = {"intermediate_size": inner, **config}
    names = ("hidden_size", "intermediate_size", "num_hidden_layers", "image_size", "patch_size")
    if lacking := [name for name in names if not config.get(name)]:
        raise UserError(f"the vision tower's config.json lacks {', '.join(lacking)}; give a vision tower's folder")
    heads = config.get("num_attention_heads") or int(config["hidden_size"]) // 64  # CLIP's heads are 64 wide
    made = SigLip if kind.startswith("siglip") else DinoV2 if kind.startswith("dinov2") else Vision
    return made(
        int(config["hidden_size"]),
        int(config["intermediate_size"]),
        int(config["num_hidden_layers"]),
        int(config["image_size"]),
        int(config["patch_size"]),
        heads=int(heads),
    )


def _load(path: Path) -> dict[str, Any]:
    return dict(read_document(path))
