"""The seams that patched upstream calls: what they accept, what they refuse, and in which words."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from llava_finetune.errors import UserError
from llava_finetune.saved import folders
from llava_finetune.upstream import flags, guards, placement

IMAGE = -200


def ids(*images: int) -> list[torch.Tensor]:
    """One record per number, with so many <image> tokens."""
    return [torch.tensor([1, *[IMAGE] * count, 2]) for count in images]


@pytest.mark.parametrize(("tokens", "num_pictures"), [((1, 1), 2), ((2, 1), 3), ((0, 1), 2), ((0,), 1)])
def test_matching_counts_pass_and_one_picture_more_does_not(tokens: tuple[int, ...], num_pictures: int) -> None:
    guards.check_image_counts(ids(*tokens), [0] * num_pictures, IMAGE)
    with pytest.raises(UserError, match=rf"{num_pictures + 1} pictures"):
        guards.check_image_counts(ids(*tokens), [0] * (num_pictures + 1), IMAGE)


@pytest.mark.parametrize(("tokens", "num_pictures"), [((2, 1), 2), ((1, 1), 3), ((0, 1), 1)])
def test_other_counts_are_refused_with_the_records(tokens: tuple[int, ...], num_pictures: int) -> None:
    with pytest.raises(UserError) as error:
        guards.check_image_counts(ids(*tokens), [0] * num_pictures, IMAGE)
    assert f"(<image> tokens per record: {', '.join(map(str, tokens))};" in str(error.value)
    assert "python -m data_prep check" in str(error.value)


def test_the_splice_itself_refuses_a_batch_that_would_shift(tiny: Path) -> None:
    from llava.model.builder import load_pretrained_model

    _, model, _, _ = load_pretrained_model(str(tiny / "llava-1.5"), None, "", dtype="float32")
    batch = torch.stack(ids(2, 2))
    with pytest.raises(UserError, match=r"2 pictures for 4 places in a batch of 2 records"):
        model(input_ids=batch, images=torch.zeros(2, 3, 56, 56))


def arguments(**values: Any) -> tuple[Any, Any]:
    """Upstream's dataclasses with their defaults."""
    defaults = {flag: default for _, flag, default in guards.BASE_WINS}
    merged = {**defaults, **values}
    aspect = merged.pop("image_aspect_ratio")
    return SimpleNamespace(**merged), SimpleNamespace(image_aspect_ratio=aspect)


BASE = SimpleNamespace(
    mm_vision_tower="clip", mm_projector_type="mlp2x_gelu", mm_vision_select_layer=-2, image_aspect_ratio="pad"
)


def test_forgotten_flags_take_the_bases_values() -> None:
    model, data = arguments()
    guards.keep_base_values(BASE, model, data)
    assert (model.mm_projector_type, model.mm_vision_select_layer, data.image_aspect_ratio) == ("mlp2x_gelu", -2, "pad")


def test_a_flag_against_the_base_is_refused_with_both_values() -> None:
    model, data = arguments(mm_projector_type="mlp3x_gelu")
    with pytest.raises(UserError, match=r"--mm_projector_type mlp3x_gelu contradicts the base's .*'mlp2x_gelu'"):
        guards.keep_base_values(BASE, model, data)


def test_a_plain_language_model_takes_the_flags() -> None:
    model, data = arguments()
    guards.keep_base_values(SimpleNamespace(), model, data)
    assert model.mm_projector_type == "linear"


def test_an_anyres_base_is_sent_to_our_driver() -> None:
    base = SimpleNamespace(mm_vision_tower="clip", image_aspect_ratio="anyres")
    with pytest.raises(UserError, match=r"train it with: llava-finetune train"):
        guards.keep_base_values(base, *arguments())


@pytest.mark.parametrize(
    ("unk", "pad", "vocabulary", "wanted"),
    [
        ("<unk>", None, ["<unk>", "</s>"], "<unk>"),
        (None, "<|endoftext|>", ["<|endoftext|>", "</s>"], "<|endoftext|>"),
        (None, "</s>", ["</s>", "<|reserved_special_token_0|>"], "<|reserved_special_token_0|>"),
        (None, None, ["</s>", "<|finetune_right_pad_id|>"], "<|finetune_right_pad_id|>"),
    ],
    ids=["llama", "qwen", "llama-3", "llama-3.1"],
)
def test_the_pad_token_is_never_the_end_token(unk: Any, pad: Any, vocabulary: list[str], wanted: str) -> None:
    tokenizer = SimpleNamespace(
        unk_token=unk, pad_token=pad, eos_token="</s>", bos_token="<s>", get_vocab=lambda: dict.fromkeys(vocabulary, 0)
    )
    assert guards.choose_pad_token(tokenizer) == wanted


def test_a_tokenizer_without_any_pad_is_refused() -> None:
    tokenizer = SimpleNamespace(
        unk_token=None, pad_token="</s>", eos_token="</s>", bos_token=None, get_vocab=lambda: {"</s>": 2}
    )
    with pytest.raises(UserError, match=r"add a pad token to its tokenizer_config.json"):
        guards.choose_pad_token(tokenizer)


def test_a_template_of_another_name_or_tokenizer_is_refused(tiny: Path) -> None:
    from transformers import AutoTokenizer

    llama, chatml = (AutoTokenizer.from_pretrained(tiny / family) for family in ("llava-1.5", "1.6-yi"))
    assert guards.choose_template("v1", llama).sep2 == "</s>"
    with pytest.raises(UserError, match=r'unknown conversation template "vicuna"; known: .*vicuna_v1'):
        guards.choose_template("vicuna", llama)
    with pytest.raises(UserError, match=r"choose a template that fits it with --version"):
        guards.choose_template("v1", chatml)
    with pytest.raises(UserError, match=r"--version llama_3: upstream's own trainer .* use llava-finetune train"):
        guards.choose_template("llama_3", llama)


def test_a_batch_that_teaches_nothing_is_refused_and_one_record_that_does_is_enough() -> None:
    masked, taught = torch.full((4,), -100), torch.tensor([-100, 7])
    guards.check_taught([masked, taught])
    with pytest.raises(UserError, match=r"a batch of 2 records teaches nothing: every label is masked"):
        guards.check_taught([masked, masked[:2]])


def test_a_projector_of_another_shape_is_refused_with_both() -> None:
    with pytest.raises(UserError, match=r"stage1.bin: expected projector weights .*\[4, 4\].* found .*\[8, 4\]"):
        guards.load_projector(
            torch.nn.Linear(4, 4), {"weight": torch.zeros(8, 4), "bias": torch.zeros(4)}, "stage1.bin"
        )


def test_what_cannot_be_saved_is_said_before_training(tmp_path: Path) -> None:
    from transformers import GenerationConfig

    class Config:
        def save_pretrained(self, folder: str) -> None:
            return None

    model = SimpleNamespace(config=Config(), generation_config=GenerationConfig(temperature=0.9, top_p=0.6))
    with pytest.raises(UserError, match=r"the model could not be saved there"):
        guards.dry_save(model, str(tmp_path))
    guards.mend_generation_config(model)
    guards.dry_save(model, str(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_any_clip_folder_is_a_tower_and_others_are_not(tiny: Path) -> None:
    assert guards.is_clip(str(tiny / "llava-1.5/clip"))
    assert not guards.is_clip(str(tiny / "language"))
    with pytest.raises(UserError, match=r"no folder with a config.json"):
        guards.is_clip(str(tiny))


def test_the_training_dtype_wins_over_the_hardwares() -> None:
    assert placement.choose_dtype("auto", "cpu", "float32") is torch.float32
    assert placement.choose_dtype("auto", "cpu", "bfloat16") is torch.bfloat16
    assert placement.choose_dtype("fp16", "cpu", "bfloat16") is torch.float16


def test_flash_attention_falls_back_to_sdpa_without_a_gpu() -> None:
    assert placement.choose_attention(False, "cpu") == "sdpa"
    assert placement.choose_attention(True, "cpu") == "sdpa"
    assert placement.flash_problem("cpu") == "it needs a CUDA device"


def test_upstreams_published_flags_are_translated_with_a_notice(capsys: pytest.CaptureFixture[str]) -> None:
    translated = flags.translate_flags(["--evaluation_strategy", "no", "--warmup_ratio", "0.03"])
    assert "--eval_strategy" in translated
    assert translated[translated.index("--warmup_steps") + 1] == "0.03"
    assert "--bf16" not in translated
    assert "--evaluation_strategy is now --eval_strategy" in capsys.readouterr().err


def test_mpt_is_told_by_the_config_and_not_by_the_path(tmp_path: Path) -> None:
    folder = tmp_path / "prompt-tuned"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "llama"}')
    assert folders.refuse_mpt(str(folder)) is False
    (folder / "config.json").write_text('{"model_type": "llava_mpt"}')
    with pytest.raises(UserError, match=r"an MPT model"):
        folders.refuse_mpt(str(folder))


def test_a_trainable_tower_gets_gradients_and_a_frozen_one_none(tiny: Path) -> None:
    from llava.model.multimodal_encoder.clip_encoder import CLIPVisionTower

    tower = CLIPVisionTower(str(tiny / "llava-1.5/clip"), SimpleNamespace(mm_vision_select_layer=-2))
    pixels = torch.zeros(1, 3, 56, 56)
    assert not tower(pixels).requires_grad
    tower.vision_tower.requires_grad_(True)
    assert tower(pixels).requires_grad
    with torch.no_grad():
        assert not tower(pixels).requires_grad
