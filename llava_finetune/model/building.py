"""Put together what is trained: base, vision tower, projector, adapters, in the right dtypes.

What the base says wins; a flag that contradicts it is an error that names both values, unless --override_config says
so.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers

from llava_finetune.config.training_flags import ModelArguments
from llava_finetune.data.own_template import NAME as CHAT_TEMPLATE
from llava_finetune.data.templates import check_fits
from llava_finetune.errors import UserError
from llava_finetune.kernels.eight_bit import forget_inputs
from llava_finetune.model.language_models import llava_class
from llava_finetune.model.modeling import model_class
from llava_finetune.model.towers import require_fit
from llava_finetune.model.trained_parts import Building, train_tower
from llava_finetune.saved.folders import find_tower, read_json
from llava_finetune.saved.language_types import language_of
from llava_finetune.saved.manifest import read_manifest
from llava_finetune.saved.model_names import require_there
from llava_finetune.saved.pickles import load_pickle
from llava_finetune.saved.promises import require_projector, require_select_layer
from llava_finetune.saved.sound import blamed_on, require_sound
from llava_finetune.saved.supported import require_language, require_sentences, require_tokenizer, require_tower
from llava_finetune.saved.tensor_names import is_buffer

# Upstream's defaults, for a base that is a plain language model and says nothing.
UPSTREAM_DEFAULTS: dict[str, Any] = {
    "mm_vision_select_layer": -1,
    "mm_projector_type": "linear",
    "mm_use_im_start_end": False,
    "mm_use_im_patch_token": True,
    "mm_patch_merge_type": "flat",
    "mm_vision_select_feature": "patch",
    "image_aspect_ratio": "square",
}
HUB = "connect to the hub (no HF_HUB_OFFLINE), log in where it asks for it (hf auth login), or give a model's folder"
REMEDY = "download the folder again, and see that every file that model.safetensors.index.json names is there"
KEPT_WHOLE = ("model.mm_projector", "model.vision_tower", "lm_head")
ATTENTIONS = ("auto", "sdpa", "eager", "flash_attention_2")
GUESSED_TEMPLATES = (("mistral", "mistral_instruct"), ("llama", "vicuna_v1"))


@dataclass(frozen=True)
class Vision:
    """Every value of a run that says how pictures become tokens, under the names that upstream's code reads."""

    vision_tower: str
    mm_vision_tower: str
    mm_vision_select_layer: int
    mm_projector_type: str
    mm_use_im_start_end: bool
    mm_use_im_patch_token: bool
    mm_patch_merge_type: str
    mm_vision_select_feature: str
    image_aspect_ratio: str
    pretrain_mm_mlp_adapter: str | None
    tune_mm_mlp_adapter: bool


def load_config(path: str, cache_dir: str | None = None) -> Any:
    """The base's config. A llava-hf folder is recognised and its import command named."""
    from llava.model import LlavaConfig  # and registers upstream's config classes

    require_there(path)
    require_sound(path)
    if (raw := read_json(path, "config.json")) is not None:
        require_language(path, raw)
    if raw is not None and (language := language_of(str(raw.get("model_type", "")))):
        llava_class(language)  # and registers its config class
    with blamed_on(path, "no usable config.json", "give a model's folder" if Path(path).is_dir() else HUB):
        config = transformers.AutoConfig.from_pretrained(path, cache_dir=cache_dir)
        if config.model_type == "llava" and "LlavaLlamaForCausalLM" in (config.architectures or []):
            # Upstream's name until 2024; transformers has given it to a layout of its own since.
            config = LlavaConfig.from_pretrained(path, cache_dir=cache_dir)
            config.model_type = LlavaConfig.model_type
    if getattr(config, "mm_vision_tower", None):
        config.mm_vision_tower = find_tower(config.mm_vision_tower, (path,))
    return config


def resolve(model: ModelArguments, image_aspect_ratio: str | None, config: Any) -> Vision:
    """Every mm_* value of the run: the base's, else the flag's, else upstream's default."""
    flags = {**vars(model), "image_aspect_ratio": image_aspect_ratio}
    projector = model.pretrain_mm_mlp_adapter
    if projector and not Path(projector).is_file():
        raise UserError(f"--pretrain_mm_mlp_adapter {projector}: no such file; stage 1 (scripts/pretrain.sh) writes it")
    is_llava = hasattr(config, "mm_vision_tower")
    values: dict[str, Any] = {
        name: _value(name, getattr(config, name, None) if is_llava else None, flags[name], model)
        for name in UPSTREAM_DEFAULTS
    }
    if values["image_aspect_ratio"] == "anyres" and not getattr(config, "image_grid_pinpoints", None):
        raise UserError(
            f"image_aspect_ratio anyres, and {model.model_name_or_path} has no image_grid_pinpoints in its config: "
            "anyres is trained from a 1.6 checkpoint; for this base use --image_aspect_ratio pad"
        )
    values["vision_tower"] = model.vision_tower or getattr(config, "mm_vision_tower", None)
    if values["vision_tower"] is None:
        raise UserError(
            f"{model.model_name_or_path} is a plain language model: name a vision tower with --vision_tower, "
            "e.g. openai/clip-vit-large-patch14-336"
        )
    require_projector(values["mm_projector_type"], "--mm_projector_type")
    require_sound(values["vision_tower"])
    require_tower(values["vision_tower"])
    require_fit(values["vision_tower"], values["mm_vision_select_feature"], model.model_name_or_path, config)
    if Path(values["vision_tower"]).is_dir():  # so that the result works from any folder
        values["vision_tower"] = str(Path(values["vision_tower"]).resolve())
    if projector:
        load_pickle(Path(projector))
    return Vision(
        **values,
        mm_vision_tower=values["vision_tower"],
        pretrain_mm_mlp_adapter=projector,
        tune_mm_mlp_adapter=model.tune_mm_mlp_adapter,
    )


def _value(name: str, base: Any, flag: Any, model: ModelArguments) -> Any:
    """The run's value of `name`. Raises UserError where base and flag say two, and neither is told to win."""
    if base is not None and flag is not None and flag != base and not model.override_config:
        raise UserError(
            f"--{name} {flag} contradicts the base's {name} {base!r} ({model.model_name_or_path}); "
            "leave the flag out, or force it with --override_config True"
        )
    if flag is not None and (base is None or model.override_config):
        return flag
    return UPSTREAM_DEFAULTS[name] if base is None else base


def template_of(
    version: str | None, base: str, config: Any, tokenizer: Any, manifest: Mapping[str, Any] | None = None
) -> str:
    """The run's conversation template: the flag's, the manifest's, or the family's; checked against the tokenizer.

    `manifest`: that of the base, where it has been read already.
    """
    name = version or (read_manifest(base) if manifest is None else manifest).get("conversation")
    if name is None or (name == "plain" and version is None):
        # Stage 1 teaches captions without a template; what talks to its result uses the language model's own.
        name = _own_template(config, tokenizer)
    check_fits(name, tokenizer)
    return str(name)


def _own_template(config: Any, tokenizer: Any) -> str:
    """The template of a language model that nobody named one for."""
    if language_of(config.model_type) is not None and getattr(tokenizer, "chat_template", None):
        return CHAT_TEMPLATE
    for token, name in (("<|im_start|>", "chatml_direct"), ("<|eot_id|>", "llama_3")):
        if len(tokenizer(token, add_special_tokens=False).input_ids) == 1:
            return name
    return next((name for family, name in GUESSED_TEMPLATES if family in config.model_type), "vicuna_v1")


def load_tokenizer(path: str, cache_dir: str | None, max_length: int) -> Any:
    """The base's tokenizer with a pad token: its own, else unk, else the end token (labels are masked by length)."""
    require_tokenizer(path)
    require_sentences(path)
    remedy = "copy tokenizer.model, tokenizer.json and tokenizer_config.json again from where the model came from"
    with blamed_on(path, "its tokenizer cannot be read", remedy):
        tokenizer = transformers.AutoTokenizer.from_pretrained(
            path, cache_dir=cache_dir, model_max_length=max_length, padding_side="right", use_fast=False
        )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.unk_token or tokenizer.eos_token
    return tokenizer


def attention(asked: str, cuda: bool) -> str:
    """auto is SDPA; on CPU eager, whose backward is faster on short sequences (measured, docs/performance.md)."""
    if asked == "flash_attention_2" and importlib.util.find_spec("flash_attn") is None:
        raise UserError(
            "--attn_implementation flash_attention_2 needs flash-attn, which is not installed; leave the flag out "
            "(SDPA), or run: pip install --no-build-isolation -e '.[gpu]'"
        )
    if asked not in ATTENTIONS:
        raise UserError(
            f"--attn_implementation {asked[:40]}: expected {', '.join(ATTENTIONS[:-1])} or {ATTENTIONS[-1]}"
        )
    if asked != "auto":
        return asked
    return "sdpa" if cuda else "eager"


def quantization(
    bits: int,
    dtype: torch.dtype,
    double_quant: bool = True,
    quant_type: str = "nf4",
    kept_whole: Sequence[str] = KEPT_WHOLE,
) -> Any:
    """bitsandbytes' config for a 4- or 8-bit base; projector, tower and head stay in 16 bit. None for 16."""
    if bits == 16:
        return None
    if importlib.util.find_spec("bitsandbytes") is None:
        raise UserError(f"--bits {bits} needs bitsandbytes, which is not installed; run: pip install -e '.[quant]'")
    return transformers.BitsAndBytesConfig(
        load_in_4bit=bits == 4,
        load_in_8bit=bits == 8,
        llm_int8_skip_modules=list(kept_whole),
        llm_int8_threshold=6.0,
        bnb_4bit_compute_dtype=dtype,
        bnb_4bit_use_double_quant=double_quant,
        bnb_4bit_quant_type=quant_type,
    )


def quantized_keywords(building: Building, kept_whole: Sequence[str] = KEPT_WHOLE) -> dict[str, Any]:
    """What from_pretrained takes for a base in 4 or 8 bit; nothing for 16."""
    config = quantization(building.bits, building.dtype, building.double_quant, building.quant_type, kept_whole)
    return {"quantization_config": config, "device_map": {"": building.device}} if config else {}


def require_all(source: str, missing: Iterable[str]) -> None:
    """Raise UserError for a weight that is in none of the files of `source`: transformers would draw it at random."""
    if lacking := sorted(name for name in missing if not is_buffer(name)):
        raise UserError(f"{source}: {lacking[0]} is missing from the weights; {REMEDY}")


def prepared(model: Any, building: Building) -> Any:
    """A loaded base made ready to be trained in its bits, with gradients that reach through checkpointed layers."""
    if building.bits != 16:
        from peft import prepare_model_for_kbit_training

        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=building.gradient_checkpointing)
    if building.bits == 8:
        forget_inputs()
    if building.gradient_checkpointing:
        model.enable_input_require_grads()
    return model


def build_model(building: Building, config: Any, values: Vision, tokenizer: Any) -> tuple[Any, bool]:
    """Base, tower and projector, frozen or not as the mode says; adapters are added after.

    Returns the model, and whether its projector is one that the base does not have.
    """
    keywords = quantized_keywords(building)
    if hasattr(config, "mm_vision_tower"):  # it knows where a tower that moved along with its folder is now
        config.mm_vision_tower = values.vision_tower
        keywords["config"] = config
    base = building.base
    with blamed_on(base, "the weights cannot be loaded", REMEDY):
        model, info = model_class(config.model_type).from_pretrained(
            base,
            cache_dir=building.cache_dir,
            attn_implementation=attention(building.attention, torch.cuda.is_available()),
            dtype=building.dtype,
            output_loading_info=True,
            **keywords,
        )
    beside = "mm_projector" if values.pretrain_mm_mlp_adapter else None
    require_all(base, {name for name in info["missing_keys"] if beside is None or beside not in name})
    model.config.use_cache = False
    if building.freeze_backbone:
        model.model.requires_grad_(False)
    model = prepared(model, building)
    with blamed_on(values.vision_tower, "cannot be the vision tower", "give the tower that the base was trained with"):
        return model, add_vision(model, building, values, tokenizer)


def add_vision(model: Any, building: Building, values: Vision, tokenizer: Any) -> bool:
    """Tower and projector, the config that says so, and the trainable parts of each mode.

    Returns whether the projector is one that the base does not have.
    """
    dtype, config = building.dtype, model.config
    tuned_before = bool(getattr(config, "unfreeze_mm_vision_tower", False))
    made = getattr(model.get_model(), "mm_projector", None) is None
    model.get_model().initialize_vision_modules(model_args=values, fsdp=building.fsdp)
    tower = model.get_vision_tower()
    require_select_layer(tower.select_layer, tower.config.num_hidden_layers, values.vision_tower)
    tower.to(dtype=dtype, device=building.device)
    config.image_aspect_ratio = values.image_aspect_ratio
    config.tokenizer_padding_side = tokenizer.padding_side
    config.tokenizer_model_max_length = tokenizer.model_max_length
    config.tune_mm_mlp_adapter = building.projector_only
    config.freeze_mm_mlp_adapter = building.freeze_projector
    config.mm_projector_lr = building.projector_lr
    config.mm_use_im_start_end = values.mm_use_im_start_end
    config.mm_use_im_patch_token = values.mm_use_im_patch_token
    if building.projector_only:
        model.requires_grad_(False)
    newline = getattr(model.get_model(), "image_newline", None)
    for parameter in [*model.get_model().mm_projector.parameters(), *([newline] if newline is not None else [])]:
        parameter.requires_grad = not building.freeze_projector
    # Under DeepSpeed every parameter has the engine's dtype (ZeRO-3 asks for one); elsewhere trainables stay fp32.
    model.get_model().mm_projector.to(dtype=dtype if building.deepspeed else torch.float32, device=building.device)
    if building.tune_tower:
        train_tower(model)
    config.unfreeze_mm_vision_tower = building.tune_tower or tuned_before
    model.initialize_vision_tokenizer(values, tokenizer=tokenizer)
    return made or values.pretrain_mm_mlp_adapter is not None
