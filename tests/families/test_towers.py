"""Towers that upstream has no class for: features, tokens and losses are transformers' own, in every mode."""

from __future__ import annotations

import json
import math
import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from data_prep.view.model_view import open_model
from llava_finetune.convert.export import export
from llava_finetune.data.dataset import num_image_tokens, process_image
from llava_finetune.data.masking import encode
from llava_finetune.errors import UserError
from llava_finetune.evaluation.generate_answers import answer, questions_from
from llava_finetune.model.building import load_tokenizer
from llava_finetune.model.loading import load
from llava_finetune.model.towers import VisionTower, tower_config
from llava_finetune.planning.from_config import read_shape
from tests.families.two_stages import command_line, ended_well, merges, two_stages
from tests.tiny import IMAGE_SIZE, PATCH_SIZE, make_tiny_language_model, make_tiny_llava
from tests.tiny_towers import KINDS, make_tiny_tower
from tests.training.conftest import assert_same_run, rows_of
from tests.training.forked import at_step, die, train

pytestmark = pytest.mark.usefixtures("ready_to_fork")
PATCHES = 16
LORA = "--version v1 --lora_enable True --lora_r 4 --lora_alpha 8 --lora_dropout 0 --lora_targets language,vision"
SELECTED = SimpleNamespace(mm_vision_select_layer=-2, mm_vision_select_feature="patch")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A tower of each kind, and a language model."""
    folder = tmp_path_factory.mktemp("towers")
    towers = {kind: make_tiny_tower(folder / kind.replace(" ", "-"), kind) for kind in KINDS}
    return towers | {"language": make_tiny_language_model(folder / "language")}


@pytest.fixture(scope="module")
def stages(made: dict[str, Path], data: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Stage 1 and LoRA on its projector, by tower, each made once."""
    return two_stages(
        lambda kind, output, more: trained(made, kind, data, output, more),
        lambda: tmp_path_factory.mktemp("runs"),
        "--max_steps 3",
        f"{LORA} --max_steps 6 --save_steps 3",
    )


@pytest.fixture(scope="module")
def merged(data: Path, stages: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The merged LoRA run of a tower, each made once."""
    return merges(stages, data / "mixed.json", lambda: tmp_path_factory.mktemp("merged"))


def words(made: dict[str, Path], kind: str, data: Path, output: Path, more: str) -> list[str]:
    """A run's command line."""
    records = data / ("captions.json" if "plain" in more else "mixed.json")
    more = f"--learning_rate 2e-3 --logging_steps 1 {more}"
    return command_line(made["language"], made[kind], records, output, more)


def trained(made: dict[str, Path], kind: str, data: Path, output: Path, more: str) -> Path:
    """The folder of a run that ended well."""
    return ended_well(words(made, kind, data, output, more), output)


def picture(size: tuple[int, int] = (60, 90)) -> Image.Image:
    noise = torch.randint(0, 255, (size[1], size[0], 3), generator=torch.Generator().manual_seed(1)).to(torch.uint8)
    return Image.fromarray(noise.numpy())


def own_pixels(folder: Path, one: Image.Image) -> torch.Tensor:
    """transformers' own processor of the tower, on a square of the mean color, at the size that the config names."""
    import transformers

    values = json.loads((folder / "preprocessor_config.json").read_text())
    kind = getattr(transformers, values.pop("image_processor_type") + "Pil")
    if "crop_size" in values:
        values |= {"size": {"shortest_edge": IMAGE_SIZE}, "crop_size": {"height": IMAGE_SIZE, "width": IMAGE_SIZE}}
    long = max(one.size)
    square = Image.new("RGB", (long, long), tuple(int(mean * 255) for mean in values["image_mean"]))
    square.paste(one, ((long - one.width) // 2, (long - one.height) // 2))
    return kind(**values)([square], return_tensors="pt")["pixel_values"]


@pytest.mark.parametrize("kind", KINDS)
def test_pixels_and_features_are_transformers_own(kind: str, made: dict[str, Path]) -> None:
    import transformers

    tower = VisionTower(str(made[kind]), SELECTED)
    pixels = process_image(picture(), tower.image_processor, SimpleNamespace(image_aspect_ratio="pad"))[None]
    assert (pixels - own_pixels(made[kind], picture())).abs().max() < 1e-6
    whole = transformers.AutoModel.from_pretrained(made[kind])
    whole = whole.vision_model if kind == "whole siglip" else whole
    prefix = {"dinov2": 1, "dinov2 with registers": 4}.get(kind, 0)
    with torch.no_grad():
        wanted = whole(pixels, output_hidden_states=True).hidden_states[-2][:, prefix:]
    assert wanted.shape == (1, PATCHES, 64) and tower.num_patches == PATCHES
    assert torch.allclose(tower(pixels), wanted, atol=1e-6)
    tower.select_feature = "cls_patch"
    assert kind.endswith("siglip") or tower(pixels).shape == (1, PATCHES + 1, 64)


@pytest.mark.parametrize("kind", ["siglip", "dinov2", "dinov2 with registers"])
def test_both_stages_train_and_the_result_is_used(
    kind: str, made: dict[str, Path], data: Path, stages: Any, merged: Any
) -> None:
    first, second = stages(kind)
    assert {name.split(".")[1] for name in torch.load(first / "mm_projector.bin")} == {"mm_projector"}
    losses = [row["loss"] for row in rows_of(second) if "loss" in row]
    assert losses[-1] < losses[0] - 0.3
    adapted = [name for name in load_file(second / "adapter_model.safetensors") if "vision_tower" in name]
    assert len(adapted) == 2 * 2 * 6, "features are read after two of three layers"
    records = json.loads((data / "mixed.json").read_text())[:6]
    questions = questions_from(records)
    said = [one["answer"] for one in answer(load(second, merge_adapter=False), questions, data, max_new_tokens=6)]
    folded = load(merged(kind))
    assert [one["answer"] for one in answer(folded, questions, data, max_new_tokens=6)] == said
    assert num_image_tokens(folded.model.config, folded.model.get_vision_tower(), (60, 90)) == PATCHES


def test_a_killed_run_goes_on_bit_for_bit(made: dict[str, Path], data: Path, stages: Any, tmp_path: Path) -> None:
    first, whole = stages("siglip")
    more = f"{LORA} --pretrain_mm_mlp_adapter {first / 'mm_projector.bin'} --max_steps 6 --save_steps 3"
    flags = words(made, "siglip", data, tmp_path / "run", more)
    code, text = train(flags, tmp_path / "out", wound=at_step(4, die))
    assert code == -9, text
    code, text = train([*flags, "--resume", "auto"], tmp_path / "out")
    assert code == 0 and "checkpoint-3" in text, text
    assert_same_run(whole, tmp_path / "run")


@pytest.mark.parametrize("kind", ["siglip", "dinov2"])
def test_a_tuned_tower_is_saved_resumed_and_loaded(
    kind: str, made: dict[str, Path], data: Path, tmp_path: Path
) -> None:
    more = "--version v1 --tune_vision_tower True --max_steps 2 --save_steps 1"
    whole = trained(made, kind, data, tmp_path / "whole", more)
    loaded, fresh = load(whole).model.get_vision_tower(), VisionTower(str(made[kind]), SELECTED)
    moved = {name for name, value in loaded.state_dict().items() if not torch.equal(value, fresh.state_dict()[name])}
    assert any("layers.0." in name or "layer.0." in name for name in moved)
    assert not any("mask_token" in name or re.search(r"tower\.(post_)?layernorm", name) for name in moved)
    if kind == "siglip":
        return
    shutil.rmtree(whole / "checkpoint-2")
    code, text = train(
        [*words(made, kind, data, tmp_path / "on", more), "--resume", str(whole / "checkpoint-1")], tmp_path
    )
    assert code == 0, text
    on = load(tmp_path / "on").model.get_vision_tower().state_dict()
    assert all(torch.equal(value, on[name]) for name, value in loaded.state_dict().items())


@pytest.mark.parametrize("kind", ["siglip", "dinov2"])
def test_transformers_answers_as_we_do_after_export(kind: str, data: Path, merged: Any, tmp_path: Path) -> None:
    import transformers

    result = export(str(merged(kind)), tmp_path / "out")
    assert "token ids equal" in result.verified
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert config["vision_feature_select_strategy"] == ("full" if kind == "siglip" else "default")
    assert config["vision_config"]["model_type"] == ("siglip_vision_model" if kind == "siglip" else "dinov2")
    processor = transformers.AutoProcessor.from_pretrained(tmp_path / "out", backend="pil")
    model = transformers.LlavaForConditionalGeneration.from_pretrained(tmp_path / "out", dtype=torch.float32)
    records = [one for one in json.loads((data / "mixed.json").read_text()) if isinstance(one.get("image"), str)][:3]
    loaded = load(merged(kind), dtype="fp32")
    for asked, one in zip(questions_from(records), records, strict=True):
        content = [{"type": "image"}, {"type": "text", "text": asked.asked.replace("<image>\n", "")}]
        text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
        inputs = processor(images=Image.open(data / one["image"]).convert("RGB"), text=text, return_tensors="pt")
        assert int((inputs["input_ids"] == config["image_token_index"]).sum()) == PATCHES
        made = model.generate(**inputs, max_new_tokens=6, do_sample=False)[0, inputs["input_ids"].shape[1] :]
        ours = answer(loaded, [asked], data, max_new_tokens=6)[0]["answer"]
        assert processor.decode(made, skip_special_tokens=True).strip() == ours


def test_what_llava_hf_cannot_hold_is_refused_before_loading(merged: Any, tmp_path: Path) -> None:
    source = str(merged("dinov2 with registers"))
    with pytest.raises(UserError, match="a DINOv2 with registers, which llava-hf would hand to the language model"):
        export(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    from llava_finetune.convert.gguf.export import export_gguf

    with pytest.raises(UserError, match="a vision tower that is no CLIP is not written as GGUF; write the model in"):
        export_gguf(source, tmp_path / "out")


@pytest.mark.parametrize("kind", KINDS)
def test_show_and_plan_count_its_tokens(kind: str, made: dict[str, Path], stages: Any) -> None:
    shape = read_shape(str(made["language"]), str(made[kind]))
    assert shape.image_tokens == PATCHES
    unused = {"dinov2 with registers": 3 * 64}
    held = sum(value.numel() for value in VisionTower(str(made[kind]), SELECTED).parameters())
    assert shape.vision.num_parameters == held - unused.get(kind, 0)
    if kind != "whole siglip":
        assert open_model(str(stages(kind)[1])).image_tokens((60, 90)) == PATCHES


def views_by_hand(one: Image.Image, grid: tuple[int, int]) -> torch.Tensor:
    """The whole picture and the tiles of `grid` (columns, rows), with SigLIP's mean and deviation of 0.5."""
    width, height = (IMAGE_SIZE * count for count in grid)
    scale = min(width / one.width, height / one.height)
    small = one.resize((min(math.ceil(one.width * scale), width), min(math.ceil(one.height * scale), height)))
    canvas = Image.new("RGB", (width, height))
    canvas.paste(small, ((width - small.width) // 2, (height - small.height) // 2))
    corners = [(left, top) for top in range(0, height, IMAGE_SIZE) for left in range(0, width, IMAGE_SIZE)]
    tiles = [canvas.crop((left, top, left + IMAGE_SIZE, top + IMAGE_SIZE)) for left, top in corners]
    views = [one.resize((IMAGE_SIZE, IMAGE_SIZE)), *tiles]
    pixels = torch.stack([torch.frombuffer(bytearray(view.tobytes()), dtype=torch.uint8) for view in views])
    return pixels.view(-1, IMAGE_SIZE, IMAGE_SIZE, 3).permute(0, 3, 1, 2) / 255 / 0.5 - 1


@torch.no_grad()
def anyres_loss(base: Path, tower: Path, folder: Path, records: list[dict[str, Any]]) -> float:
    """transformers' own loss: SigLIP's features of each view, put side by side, a newline after each row of patches."""
    import transformers

    weights, vision = load_file(base / "model.safetensors"), transformers.SiglipVisionModel.from_pretrained(tower)
    config = transformers.LlamaConfig.from_dict(json.loads((base / "config.json").read_text()))
    model = transformers.LlamaForCausalLM.from_pretrained(base, config=config, attn_implementation="eager")
    tokenizer, side, total, count = load_tokenizer(str(base), None, 512), IMAGE_SIZE // PATCH_SIZE, 0.0, 0
    first, second = ([weights[f"model.mm_projector.{layer}.{kind}"] for kind in ("weight", "bias")] for layer in (0, 2))
    for record, grid in zip(records, ((2, 1), (1, 2)), strict=True):
        seen = vision(views_by_hand(Image.open(folder / record["image"]), grid), output_hidden_states=True)
        linear = torch.nn.functional.linear
        features = linear(torch.nn.functional.gelu(linear(seen.hidden_states[-2], *first)), *second)
        rows = [
            torch.cat([features[1 + row * grid[0] + column].view(side, side, -1)[line] for column in range(grid[0])])
            for row in range(grid[1])
            for line in range(side)
        ]
        newline = weights["model.image_newline"][None]
        picture = torch.cat([features[0], *(torch.cat([row, newline]) for row in rows)])
        made = encode(record["conversations"], "v1", tokenizer)
        place = made.input_ids.index(-200)
        text = model.get_input_embeddings()(torch.tensor([max(token, 0) for token in made.input_ids]))
        embeds = torch.cat([text[:place], picture, text[place + 1 :]])
        labels = [*made.labels[:place], *[-100] * len(picture), *made.labels[place + 1 :]]
        loss = model(inputs_embeds=embeds[None], labels=torch.tensor([labels])).loss
        total, count = total + float(loss) * made.num_supervised, count + made.num_supervised
    return total / count


def test_anyres_trains_from_transformers_own_loss(made: dict[str, Path], tmp_path: Path) -> None:
    """Pictures as wide and as high as their grids, so that no row of patches is padding."""
    base = make_tiny_llava(
        tmp_path / "base", "1.6-vicuna", mm_vision_tower=str(made["siglip"]), unfreeze_mm_vision_tower=False
    )
    records = []
    for name, size in (("wide", (150, 75)), ("tall", (60, 120))):
        picture(size).save(tmp_path / f"{name}.png")
        turns = [{"from": "human", "value": "<image>\nWhat is it?"}, {"from": "gpt", "value": f"a {name} one"}]
        records.append({"id": name, "image": f"{name}.png", "conversations": turns})
    (tmp_path / "records.json").write_text(json.dumps(records))
    more = "--version v1 --lora_enable True --lora_r 4 --lora_dropout 0 --learning_rate 5e-3 --max_steps 4 "
    flags = command_line(base, made["siglip"], tmp_path / "records.json", tmp_path / "run", more + "--logging_steps 1")
    flags[flags.index("--image_aspect_ratio") + 1] = "anyres"
    losses = [row["loss"] for row in rows_of(ended_well(flags, tmp_path / "run")) if "loss" in row]
    assert losses[0] == pytest.approx(anyres_loss(base, made["siglip"], tmp_path, records), rel=1e-4)
    assert losses[-1] < losses[0] - 0.1


@pytest.mark.parametrize(
    ("kind", "more", "said"),
    [
        ("siglip", "--mm_vision_select_feature cls_patch", "has no class token; leave the flag out"),
        ("naflex", "", "a SigLIP-2 NaFlex, which takes packed patches .* google/siglip2-so400m-patch14-384"),
        ("vit", "", "no vision tower of a known kind .model_type vit.. Supported are CLIP .* SigLIP .* DINOv2"),
        ("unmeaned", "", "no image_mean and image_std in a preprocessor_config.json; copy that file"),
        ("cut", "", "weights of the vision tower are missing, first embeddings"),
    ],
)
def test_a_tower_that_does_not_fit_is_refused(
    kind: str, more: str, said: str, made: dict[str, Path], data: Path, tmp_path: Path
) -> None:
    other = tmp_path / kind
    config = json.loads((made["siglip"] / "config.json").read_text())
    if kind in ("naflex", "vit"):
        other.mkdir()
        (other / "config.json").write_text(json.dumps({"model_type": {"naflex": "siglip2"}.get(kind, kind)}))
    elif kind != "siglip":
        from safetensors.torch import save_file

        other.mkdir()
        weights = load_file(made["siglip"] / "model.safetensors")
        if kind == "cut":
            del weights["embeddings.position_embedding.weight"]
            (other / "preprocessor_config.json").write_text((made["siglip"] / "preprocessor_config.json").read_text())
        save_file(weights, other / "model.safetensors", {"format": "pt"})
        (other / "config.json").write_text(json.dumps(config))
    flags = words({**made, **({kind: other} if other.exists() else {})}, kind, data, tmp_path / "run", f"{LORA} {more}")
    code, text = train(flags, tmp_path / "out")
    assert code == 1
    assert re.search(said, text), text
    assert "trainable parameters" not in text


def config_alone(folder: Path, **values: int) -> Path:
    """A SigLIP whose config says these values, without weights that would contradict them."""
    make_tiny_tower(folder, "siglip")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **values}))
    (folder / "model.safetensors").unlink()
    return folder


def test_a_llava_keeps_its_tower_and_its_grid(made: dict[str, Path], models: dict[str, Path], tmp_path: Path) -> None:
    from llava_finetune.config.arguments import ModelArguments
    from llava_finetune.model.building import load_config, resolve

    wide = config_alone(tmp_path / "wide", hidden_size=128)
    base = str(models["llava-1.5"])
    with pytest.raises(UserError, match=r"its features have 128 channels, .*llava-1.5's projector takes 64; leave the"):
        resolve(ModelArguments(base, vision_tower=str(wide)), None, load_config(base))
    larger = config_alone(tmp_path / "larger", image_size=70)
    base = str(models["1.6-vicuna"])
    frozen = load_config(base)
    frozen.unfreeze_mm_vision_tower = False
    with pytest.raises(UserError, match=r"image_grid_pinpoints: expected multiples of 70, the tower's picture size"):
        resolve(ModelArguments(base, vision_tower=str(larger)), None, frozen)
    assert tower_config(str(larger)).image_size == 70
    said = r"siglip: a Siglip, and .*1.6-vicuna carries the CLIP that it was trained with; leave the flag out"
    with pytest.raises(UserError, match=said):
        resolve(ModelArguments(base, vision_tower=str(made["siglip"])), None, load_config(base))


@pytest.mark.parametrize("old", ["/moved/away/clip", "data/towers/clip", "./clip"])
def test_a_trained_tower_whose_folder_was_moved_is_named_anew(models: dict[str, Path], old: str) -> None:
    from llava_finetune.config.arguments import ModelArguments
    from llava_finetune.model.building import load_config, resolve

    base = str(models["1.6-vicuna"])
    config = load_config(base)
    new, config.mm_vision_tower = config.mm_vision_tower, old
    assert resolve(ModelArguments(base, vision_tower=new), None, config).vision_tower == new
