"""Shapes from configs: parameter counts of published models, and of real tiny ones, to the last parameter."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llava_finetune.errors import UserError
from llava_finetune.planning.activations import norms_are_kernels
from llava_finetune.planning.family_pictures import COSTS
from llava_finetune.planning.from_config import KNOWN_MODELS, read_shape, shape_of
from llava_finetune.planning.memory import trainable_parameters
from llava_finetune.planning.setting import Setting
from llava_finetune.planning.shapes import SigLip
from llava_finetune.saved.supported import FAMILIES as TRAINED
from tests.tiny import FAMILIES, make_tiny_llava

SEVEN = "liuhaotian/llava-v1.5-7b"


def test_the_published_counts_of_the_7b_come_out() -> None:
    shape = read_shape(SEVEN)
    assert shape.language.num_parameters == 6_738_415_616
    assert shape.lora_parameters(128) == 319_815_680
    assert shape.projector_parameters == 20_979_712
    assert trainable_parameters(shape, Setting("lora")) == 319_815_680 + 20_979_712


@pytest.mark.parametrize(
    ("model", "language", "lora", "tokens"),
    [
        ("liuhaotian/llava-v1.5-13b", 13_015_864_320, 500_695_040, 576),
        ("liuhaotian/llava-v1.6-mistral-7b", 7_241_732_096, 335_544_320, 2928),
        ("liuhaotian/llava-v1.6-34b", 34_388_917_248, 983_040_000, 2928),
        ("llava-hf/llava-1.5-7b-hf", 6_738_939_904, 319_815_680, 576),
        ("TinyLlama/TinyLlama-1.1B-Chat-v1.0", 1_100_048_384, 100_925_440, 576),
        ("Qwen/Qwen3-0.6B", 596_042_752, 80_740_352, 576),  # but the norms of its heads
        ("HuggingFaceTB/SmolLM2-135M-Instruct", 134_515_008, 39_075_840, 576),
    ],
)
def test_a_built_in_model_has_its_published_size(model: str, language: int, lora: int, tokens: int) -> None:
    shape = read_shape(model)
    assert (shape.language.num_parameters, shape.lora_parameters(128), shape.image_tokens) == (language, lora, tokens)


def test_a_siglip_that_leaves_its_sizes_out_has_transformers_defaults_and_no_clips() -> None:
    text = {"model_type": "qwen2", "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24}
    for model_type, size, tokens in (("siglip_vision_model", 768, 196), ("clip_vision_model", 1024, 576)):
        config = {"model_type": "llava", "text_config": text, "vision_config": {"model_type": model_type}}
        shape = shape_of(config, "x")
        assert (shape.vision.hidden, shape.image_tokens) == (size, tokens)
        assert isinstance(shape.vision, SigLip) == (tokens == 196)


def test_pinpoints_that_stand_as_a_text_are_counted() -> None:
    config = {"model_type": "llava", "image_aspect_ratio": "anyres", "image_grid_pinpoints": "[[336, 1008]]"}
    assert shape_of(config, "x").pinpoints == ((336, 1008),)
    config["image_grid_pinpoints"] = "(1x1),...,(6x6)"
    with pytest.raises(UserError, match=r"x: config.json: image_grid_pinpoints: expected a list .*, found \(1x1\)"):
        shape_of(config, "x")
    assert shape_of({**config, "image_aspect_ratio": "pad"}, "x").pinpoints == ()


@pytest.mark.parametrize(
    ("config", "flags", "is_kernel"),
    [
        ({"model_type": "llava"}, {}, True),
        ({"model_type": "llava"}, {"fused_norms": False}, False),
        ({"model_type": "llava_gemma2"}, {}, False),
        ({"model_type": "llava_onevision", "text_config": {"model_type": "qwen2"}}, {}, False),
    ],
)
def test_a_norm_costs_less_only_where_it_is_one_kernel(
    config: dict[str, Any], flags: dict[str, bool], is_kernel: bool
) -> None:
    sizes = {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 1, "num_attention_heads": 4}
    text = config.get("text_config")
    config = {**config, "text_config": {**text, **sizes}} if text else {**config, **sizes}
    vision = {"model_type": "siglip_vision_model", "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1}
    shape = shape_of({**config, "vision_config": vision | {"image_size": 14, "patch_size": 14}}, "x")
    setting = Setting("lora", checkpointing=False, **flags)  # type: ignore[arg-type]
    assert norms_are_kernels(shape.language, setting) is is_kernel
    on_cpu = replace(setting, mask_bytes=4)
    assert not norms_are_kernels(shape.language, on_cpu)


@pytest.mark.parametrize(
    ("model", "billions", "tokens"),
    [
        ("HuggingFaceTB/SmolVLM-256M-Instruct", 0.2565, 1129),
        ("HuggingFaceTB/SmolVLM-500M-Instruct", 0.507, 1129),
        ("HuggingFaceTB/SmolVLM-Instruct", 2.246, 1418),
        ("HuggingFaceM4/Idefics3-8B-Llama3", 8.462, 2914),
        ("HuggingFaceM4/idefics2-8b", 8.403, 326),
        ("llava-hf/llava-onevision-qwen2-0.5b-ov-hf", 0.894, 7452),
        ("llava-hf/llava-onevision-qwen2-7b-ov-hf", 8.030, 7452),
        ("HuggingFaceM4/idefics-9b-instruct", 8.930, 3),
    ],
)
def test_a_family_of_transformers_has_its_published_size(model: str, billions: float, tokens: int) -> None:
    """IDEFICS' cross-attention is counted as whole layers: 2 % too many."""
    shape = read_shape(model)
    found = shape.language.num_parameters + shape.vision.num_parameters + shape.projector_parameters
    assert found / 1e9 == pytest.approx(billions, rel=0.025 if "idefics-" in model else 0.001)
    assert shape.image_tokens == tokens
    whole = {1129: 67, 1418: 84, 2914: 172, 326: 66}.get(tokens)
    assert (shape.uncut and shape.uncut.image_tokens) == whole, "as docs/families.md says"


def test_cross_attention_is_adapted_where_there_is_some() -> None:
    shape = read_shape("HuggingFaceM4/idefics-9b-instruct")
    assert shape.lora_parameters(8, "cross") * 5 == shape.lora_parameters(8), "8 of 40 layers"
    with pytest.raises(UserError, match=r"plan knows the targets language, .* not 'cross'"):
        read_shape("HuggingFaceTB/SmolVLM-Instruct").lora_parameters(8, "cross")


def test_the_plan_knows_the_families_that_are_trained() -> None:
    assert sorted(COSTS) == sorted(TRAINED)


@pytest.mark.parametrize("model", json.loads(KNOWN_MODELS.read_text())["models"])
def test_every_built_in_model_is_read(model: str) -> None:
    shape = read_shape(model)
    assert shape.language.num_parameters > 10**8 and shape.vision.num_parameters > 5 * 10**7


@pytest.mark.parametrize("family", FAMILIES)
def test_counts_equal_a_real_models_parameters(family: str, tmp_path: Path) -> None:
    import llava.model  # noqa: F401  registers the config classes
    import torch
    import transformers

    from llava_finetune.model.adapters import target_modules
    from llava_finetune.model.modeling import model_class

    folder = make_tiny_llava(tmp_path / "model", family)
    config = transformers.AutoConfig.from_pretrained(folder)
    model = model_class(config.model_type).from_pretrained(folder, dtype=torch.float32)
    tower = model.get_vision_tower()
    if not tower.is_loaded:
        tower.load_model()
    shape = read_shape(str(folder))
    counted = shape.language.num_parameters + shape.vision.num_parameters + shape.projector_parameters
    assert counted == sum(parameter.numel() for parameter in model.parameters())
    modules = dict(model.named_modules())
    for targets in ("language", "language.attention", "vision", "projector", "language,vision"):
        sizes = [modules[name] for name in target_modules(targets, model)]
        expected = sum(8 * (module.in_features + module.out_features) for module in sizes)
        assert shape.lora_parameters(8, targets) == expected, targets


def test_image_tokens_equal_the_drivers_count(tmp_path: Path) -> None:
    import llava.model  # noqa: F401  registers the config classes
    import transformers

    from llava_finetune.data.dataset import num_image_tokens
    from llava_finetune.model.modeling import model_class

    folder = make_tiny_llava(tmp_path / "model", "1.6-mistral")
    config = transformers.AutoConfig.from_pretrained(folder)
    tower = model_class(config.model_type).from_pretrained(folder).get_vision_tower()
    most = max(num_image_tokens(config, tower, size) for size in [(112, 112), (200, 200), (56, 112), (112, 56)])
    assert read_shape(str(folder)).image_tokens == most


def test_an_adapter_has_its_bases_shape(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": SEVEN}))
    assert read_shape(str(tmp_path)).language == read_shape(SEVEN).language


def test_an_unknown_hub_id_says_what_else_is_possible() -> None:
    with pytest.raises(UserError, match=r"some/model: neither a folder with config.json nor a hub id that is built in"):
        read_shape("some/model")


def test_an_unknown_family_is_named() -> None:
    for other in ("paligemma", "qwen2_5_vl"):
        with pytest.raises(UserError, match=f"m: model family '{other}' is not supported; .*, llava_next, idefics"):
            shape_of({"model_type": other, "text_config": {"hidden_size": 64}}, "m")
    with pytest.raises(UserError, match=r"m: model family 'gpt2' is not supported; known: llama, "):
        shape_of({"model_type": "gpt2"}, "m")


def test_a_broken_config_names_file_and_line(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"hidden_size": }')
    with pytest.raises(UserError, match=r"config.json: line 1, column 17: broken JSON"):
        read_shape(str(tmp_path))


def test_an_unknown_tower_is_named() -> None:
    with pytest.raises(UserError, match=r"vision tower some/tower is neither a folder nor built in"):
        shape_of({"model_type": "llama", "mm_vision_tower": "some/tower"}, "m")
