"""`load_pretrained_model` loads everything upstream saves, in the asked dtype and width, told by files alone."""

import itertools
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from llava_finetune.errors import UserError
from tests.tiny import FAMILIES

# Rotary tables stay fp32 on purpose: bf16 angles are wrong by whole positions after a few hundred tokens.
KEPT_IN_FP32 = "inv_freq"


def load(path: Path, base: Path | None = None, **keywords: Any) -> tuple[Any, Any, Any, int]:
    """Upstream's loader; the third argument is the name it no longer looks at."""
    from llava.model.builder import load_pretrained_model

    keywords.setdefault("dtype", "bfloat16")
    return load_pretrained_model(str(path), str(base) if base else None, "any-name", **keywords)  # type: ignore[no-any-return]


def answer(loaded: tuple[Any, Any, Any, int]) -> list[int]:
    """Greedy token ids about a picture."""
    from llava.mm_utils import process_images, tokenizer_image_token

    tokenizer, model, processor, _ = loaded
    picture = Image.new("RGB", (100, 60), "red")
    pixels = process_images([picture], processor, model.config).to(model.device, dtype=model.dtype)
    ids = tokenizer_image_token("USER: <image>\nColor? ASSISTANT:", tokenizer, return_tensors="pt").unsqueeze(0)
    out = model.generate(ids, images=pixels, image_sizes=[picture.size], do_sample=False, max_new_tokens=4)
    return list(out[0].tolist())


def strays(model: Any, dtype: torch.dtype) -> list[str]:
    """Floating-point parameters and buffers of another dtype."""
    named = [*model.named_parameters(), *model.named_buffers()]
    return [
        f"{name} {value.dtype}"
        for name, value in named
        if value.is_floating_point() and value.dtype != dtype and KEPT_IN_FP32 not in name
    ]


@pytest.fixture(scope="module")
def projector(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What projector pretraining leaves: config.json and mm_projector.bin."""
    folder = tmp_path_factory.mktemp("stage1")
    shutil.copy(tiny / "llava-1.5/config.json", folder)
    torch.manual_seed(3)
    shapes = {"0.weight": (64, 64), "0.bias": (64,), "2.weight": (64, 64), "2.bias": (64,)}
    weights = {f"model.mm_projector.{name}": torch.randn(shape) for name, shape in shapes.items()}
    torch.save(weights, folder / "mm_projector.bin")
    return folder


def make_adapter(folder: Path, base: Path, extra: tuple[str, ...]) -> Path:
    """A LoRA over `base` that changes it, and the base's weights whose names hold one of `extra`, moved by 0.5."""
    from peft import LoraConfig, get_peft_model

    _, model, _, _ = load(base, dtype="float32")
    torch.manual_seed(4)
    model = get_peft_model(model, LoraConfig(r=4, target_modules=r"model\.layers\.\d+\.self_attn\.[qv]_proj"))
    for name, value in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(value, std=0.1)
    model.save_pretrained(folder)
    kept = {name: value + 0.5 for name, value in model.state_dict().items() if any(part in name for part in extra)}
    if kept:
        torch.save(kept, folder / "non_lora_trainables.bin")
    return folder


@pytest.fixture(scope="module")
def adapter(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What upstream's QLoRA leaves over llava-1.5: adapter, projector, and a config that says 4 bit."""
    folder = make_adapter(tmp_path_factory.mktemp("second-stage"), tiny / "llava-1.5", ("mm_projector",))
    config = json.loads((tiny / "llava-1.5/config.json").read_text())
    config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


WIDTHS = pytest.mark.parametrize("width", [{}, {"load_4bit": True}, {"load_8bit": True}], ids=["16", "4", "8"])


def packed(model: Any) -> list[str]:
    """The names of quantised weights."""
    return [name for name, value in model.named_parameters() if not value.is_floating_point()]


@pytest.mark.parametrize(
    ("family", "dtype"),
    [*itertools.product(FAMILIES, ["bfloat16", "float32"]), ("llava-1.5", "float16"), ("1.6-mistral", "float16")],
)
def test_every_float_has_the_asked_dtype_and_the_model_answers(tiny: Path, family: str, dtype: str) -> None:
    loaded = load(tiny / family, dtype=dtype)
    assert strays(loaded[1], getattr(torch, dtype)) == []
    assert loaded[1].config._attn_implementation == "sdpa"
    assert 1 <= len(answer(loaded)) <= 4


@pytest.mark.parametrize("family", ["llava-1.5", "1.6-mistral"])
@pytest.mark.parametrize("width", ["load_4bit", "load_8bit"])
def test_quantised_models_keep_projector_tower_and_head_in_16_bit(tiny: Path, family: str, width: str) -> None:
    loaded = load(tiny / family, **{width: True})
    model = loaded[1]
    assert strays(model, torch.bfloat16) == []
    assert packed(model)
    assert all(name.startswith("model.layers.") for name in packed(model))
    assert 1 <= len(answer(loaded)) <= 4


@WIDTHS
def test_a_projector_folder_loads_over_a_language_model(tiny: Path, projector: Path, width: dict[str, bool]) -> None:
    loaded = load(projector, tiny / "language", **width)
    model = loaded[1]
    wanted = torch.load(projector / "mm_projector.bin")
    assert all(torch.equal(model.state_dict()[name], value.bfloat16()) for name, value in wanted.items())
    assert bool(packed(model)) == bool(width)
    assert strays(model, torch.bfloat16) == []
    assert 1 <= len(answer(loaded)) <= 4


@WIDTHS
def test_qlora_output_loads_in_the_width_that_is_asked(tiny: Path, adapter: Path, width: dict[str, bool]) -> None:
    loaded = load(adapter, tiny / "llava-1.5", **width)
    _, base, _, _ = load(tiny / "llava-1.5", **width)
    assert bool(packed(loaded[1])) == bool(width)
    delta = loaded[1].get_model().mm_projector[0].bias - base.get_model().mm_projector[0].bias
    assert torch.allclose(delta.float(), torch.full((64,), 0.5), atol=0.01)
    assert strays(loaded[1], torch.bfloat16) == []
    assert 1 <= len(answer(loaded)) <= 4


@pytest.mark.parametrize("family", ["1.6-mistral", "1.6-vicuna"])
def test_a_lora_over_a_1_6_base_brings_projector_and_newline(tiny: Path, tmp_path: Path, family: str) -> None:
    folder = make_adapter(tmp_path, tiny / family, ("mm_projector", "image_newline"))
    loaded, (_, base, _, _) = load(folder, tiny / family), load(tiny / family)
    assert type(loaded[1]) is type(base)
    delta = (loaded[1].model.image_newline - base.model.image_newline).float()
    assert torch.allclose(delta, torch.full_like(delta, 0.5), atol=0.01)
    assert strays(loaded[1], torch.bfloat16) == []
    assert 1 <= len(answer(loaded)) <= 4


def test_a_language_models_adapter_loads_over_its_base_without_eyes(tiny: Path, tmp_path: Path) -> None:
    tokenizer, model, processor, length = load(make_adapter(tmp_path, tiny / "language", ()), tiny / "language")
    _, base, _, _ = load(tiny / "language")
    assert processor is None and length == 2048
    assert not torch.equal(model.model.layers[0].self_attn.q_proj.weight, base.model.layers[0].self_attn.q_proj.weight)
    ids = tokenizer("Two and two?", return_tensors="pt").input_ids
    assert model.generate(ids, do_sample=False, max_new_tokens=2).shape[1] > ids.shape[1]


def test_a_merged_adapter_is_the_base_plus_its_product(tiny: Path, adapter: Path) -> None:
    from safetensors.torch import load_file

    _, model, _, _ = load(adapter, tiny / "llava-1.5", dtype="float32")
    _, base, _, _ = load(tiny / "llava-1.5", dtype="float32")
    factors = load_file(adapter / "adapter_model.safetensors")
    key = "base_model.model.model.layers.0.self_attn.q_proj.lora_{}.weight"
    scale = json.loads((adapter / "adapter_config.json").read_text())["lora_alpha"] / 4
    wanted = base.model.layers[0].self_attn.q_proj.weight + scale * factors[key.format("B")] @ factors[key.format("A")]
    assert torch.allclose(model.model.layers[0].self_attn.q_proj.weight, wanted, atol=1e-5)


@pytest.mark.parametrize("name", ["prompt-tuned", "lora-mpt", "plain"])
def test_a_folders_name_decides_nothing(tiny: Path, tmp_path: Path, name: str) -> None:
    shutil.copytree(tiny / "llava-1.5", tmp_path / name)
    _, model, processor, _ = load(tmp_path / name)
    assert type(model).__name__ == "LlavaLlamaForCausalLM"
    assert processor is not None


def test_a_1_6_checkpoint_with_the_towers_old_key_names_loads_its_own_tower(tiny: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    shutil.copytree(tiny / "1.6-vicuna", tmp_path / "old")
    weights = load_file(tmp_path / "old/model.safetensors")
    marker = "vision_tower.vision_tower."
    old = {name.replace(marker, marker + "vision_model.") if marker in name else name: v for name, v in weights.items()}
    tower = next(name for name in old if name.endswith("class_embedding"))
    old[tower] = old[tower] + 1
    save_file(old, tmp_path / "old/model.safetensors", metadata={"format": "pt"})
    _, model, _, _ = load(tmp_path / "old", dtype="float32")
    assert torch.equal(model.get_vision_tower().vision_tower.embeddings.class_embedding, old[tower])


def test_a_tower_can_be_named_at_load_time_and_is_found_after_a_move(tiny: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny / "llava-1.5", tmp_path / "moved")
    config = tmp_path / "moved/config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "mm_vision_tower": "/gone/clip"}))
    _, model, _, _ = load(tmp_path / "moved")
    assert model.get_vision_tower().vision_tower_name == str(tmp_path / "moved/clip")
    _, model, _, _ = load(tmp_path / "moved", vision_tower=str(tiny / "1.6-yi/clip"))
    assert model.get_vision_tower().vision_tower_name == str(tiny / "1.6-yi/clip")


def test_a_model_with_vicunas_sampling_values_can_be_saved(tiny: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny / "llava-1.5", tmp_path / "vicuna")
    (tmp_path / "vicuna/generation_config.json").write_text(json.dumps({"temperature": 0.9, "top_p": 0.6}))
    _, model, _, _ = load(tmp_path / "vicuna")
    model.save_pretrained(tmp_path / "saved")
    assert (tmp_path / "saved/model.safetensors").is_file()


def edit_config(folder: Path, **values: Any) -> None:
    """Change some values of config.json."""
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"architectures": ["LlavaForConditionalGeneration"]}, "llava-finetune import "),
        ({"architectures": ["LlavaMptForCausalLM"], "model_type": "llava_mpt"}, "an MPT model, which upstream's own"),
        ({"mm_projector_type": "mlp3x_gelu"}, "config.json says mm_projector_type 'mlp3x_gelu'; correct it there"),
        ({"mm_vision_tower": "/gone/nowhere"}, "give --vision_tower, or vision_tower= when loading, a CLIP folder"),
    ],
)
def test_a_folder_that_cannot_be_loaded_says_what_to_do(
    tiny: Path, tmp_path: Path, values: dict[str, Any], words: str
) -> None:
    shutil.copytree(tiny / "llava-1.5", tmp_path / "model")
    shutil.rmtree(tmp_path / "model/clip" if "/gone" in str(values) else tmp_path / "model/none", ignore_errors=True)
    edit_config(tmp_path / "model", **values)
    with pytest.raises(UserError) as error:
        load(tmp_path / "model")
    assert words in str(error.value)


def test_wrong_bases_and_missing_parts_say_what_to_do(
    tiny: Path, tmp_path: Path, adapter: Path, projector: Path
) -> None:
    with pytest.raises(UserError, match=r"a whole model .* leave --model-base out"):
        load(tiny / "llava-1.5", tiny / "language")
    with pytest.raises(UserError, match=r"holds a projector only and does not name its base"):
        load(projector)
    shutil.copytree(adapter, tmp_path / "adapter")
    (tmp_path / "adapter/non_lora_trainables.bin").unlink()
    with pytest.raises(UserError, match=r"non_lora_trainables.bin is missing; an adapter needs it"):
        load(tmp_path / "adapter", tiny / "llava-1.5")
    torch.save({"model.mm_projector.weight": torch.zeros(2)}, tmp_path / "adapter/non_lora_trainables.bin")
    with pytest.raises(UserError, match=r"1 of 1 weights have no place in the model"):
        load(tmp_path / "adapter", tiny / "llava-1.5")
    with pytest.raises(UserError, match=r"no config.json there"):
        load(tmp_path)


def test_a_projector_file_that_lacks_weights_leaves_nothing_random(
    tiny: Path, tmp_path: Path, adapter: Path, projector: Path
) -> None:
    shutil.copytree(projector, tmp_path / "half")
    weights = torch.load(projector / "mm_projector.bin")
    del weights["model.mm_projector.2.bias"]
    torch.save(weights, tmp_path / "half/mm_projector.bin")
    with pytest.raises(UserError, match=r"half: model.mm_projector.2.bias missing, and its base .* would stay random"):
        load(tmp_path / "half", tiny / "language")
    shutil.copytree(adapter, tmp_path / "adapter")
    torch.save({}, tmp_path / "adapter/non_lora_trainables.bin")
    load(tmp_path / "adapter", tiny / "llava-1.5")  # the base's own projector serves
    with pytest.raises(UserError, match=r"adapter: model.mm_projector.0.bias, .* and 1 more missing"):
        load(tmp_path / "adapter", tiny / "language")


@pytest.mark.skipif(torch.cuda.is_available(), reason="asks what happens without CUDA")
def test_cuda_without_cuda_is_said_in_one_sentence(tiny: Path) -> None:
    with pytest.raises(UserError, match=r"torch sees no CUDA device here; use --device cpu"):
        load(tiny / "llava-1.5", device="cuda")


def test_an_unknown_dtype_is_refused_with_the_known_ones(tiny: Path) -> None:
    with pytest.raises(UserError, match=r"dtype int7: expected auto or one of bfloat16"):
        load(tiny / "llava-1.5", dtype="int7")
