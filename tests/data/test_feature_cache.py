"""Features kept on disk give the losses of features computed anew, to the bit, and are never another picture's."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from llava_finetune.config.arguments import parse
from llava_finetune.data import dataset as dataset_module
from llava_finetune.data import feature_cache
from llava_finetune.data.collator import Collator
from llava_finetune.data.dataset import RecordDataset
from llava_finetune.data.feature_cache import FeatureCache, fingerprint, reason_against
from llava_finetune.data.replay import Mixed
from llava_finetune.model.modeling import ForwardSettings
from llava_finetune.training.train import train
from tests.tiny import make_tiny_llava

Records = list[dict[str, Any]]


def run(model: Path, pictures: Path, output: Path, *more: str) -> list[float]:
    """The losses of a tiny LoRA run of three epochs."""
    flags = (
        f"--model_name_or_path {model} --version v1 --data_path {pictures / 'records.json'} --image_folder {pictures} "
        f"--lora_enable True --lora_r 8 --lora_dropout 0.1 --per_device_train_batch_size 7 --num_train_epochs 3 "
        f"--learning_rate 1e-3 --precision fp32 --save_strategy no --check_data False --output_dir {output}"
    )
    train(parse([*flags.split(), *more]))
    rows = [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]
    return [row["loss"] for row in rows if "loss" in row]


@pytest.mark.parametrize("family", ["llava-1.5", "1.6-mistral"])
def test_losses_with_the_cache_equal_losses_without_to_the_bit(
    family: str, tmp_path: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = make_tiny_llava(tmp_path / "model", family)
    kept = tmp_path / "kept"
    plain = run(model, pictures, tmp_path / "plain")
    filled = run(model, pictures, tmp_path / "filled", "--cache_features", str(kept))
    assert "features of pictures are kept in" in capsys.readouterr().out
    assert len(list(kept.rglob("*.safetensors"))) == 4
    monkeypatch.setattr(dataset_module, "open_image", lambda path: pytest.fail(f"{path} was opened"))
    known = run(model, pictures, tmp_path / "known", "--cache_features", str(kept))
    assert len(plain) == 3 and plain[2] < plain[0]
    assert plain == filled == known


def cached(made: Any, folder: Path, limit: int = 10**9) -> Any:
    tower = made.model.get_vision_tower()
    cache = FeatureCache(folder, fingerprint(tower, made.model.config, "fp32"), limit)
    made.model.go_forward_by(ForwardSettings(cache=cache))
    return replace(made.encoder, cache=cache)


def step(made: Any, encoder: Any, items: Records) -> torch.Tensor:
    """The loss of one unpadded batch."""
    from llava_finetune.kernels.unpadded_attention import unpad_attention

    unpad_attention(made.model.config)
    rows = RecordDataset(items, encoder)
    batch = Collator(0, torch.zeros(3, 56, 56), None, True)([rows[index] for index in range(len(rows))])
    for name in ("record_ids", "record_indices", "num_tokens"):
        batch.pop(name)
    loss: torch.Tensor = made.model(**batch).loss.detach()
    return loss


def test_a_batch_may_mix_known_pictures_new_ones_and_none(
    make_model: Callable[..., Any], records: Records, tmp_path: Path
) -> None:
    made = make_model("1.6-vicuna")
    loss = step(made, made.encoder, records)
    encoder = cached(made, tmp_path)
    step(made, encoder, records[1:3])
    assert len(list(tmp_path.rglob("*.safetensors"))) == 2
    torch.testing.assert_close(step(made, encoder, records), loss, rtol=1e-6, atol=0)
    assert len(list(tmp_path.rglob("*.safetensors"))) == 4
    text = [record for record in records if "image" not in record]
    assert torch.equal(step(made, encoder, text), step(made, made.encoder, text))


def test_a_damaged_file_is_written_anew(make_model: Callable[..., Any], records: Records, tmp_path: Path) -> None:
    made = make_model()
    encoder = cached(made, tmp_path)
    loss = step(made, encoder, records[:1])
    [file] = tmp_path.rglob("*.safetensors")
    whole = file.read_bytes()
    file.write_bytes(whole[:-9])
    assert torch.equal(step(made, encoder, records[:1]), loss)
    assert file.read_bytes() == whole


def test_another_picture_or_another_tower_has_another_name(make_model: Callable[..., Any], tmp_path: Path) -> None:
    made = make_model()
    tower, config = made.model.get_vision_tower(), made.model.config
    cache = FeatureCache(tmp_path, "x", 1)
    Image.new("RGB", (8, 8), "red").save(tmp_path / "a.png")
    Image.new("RGB", (8, 8), "blue").save(tmp_path / "b.png")
    shutil.copyfile(tmp_path / "a.png", tmp_path / "c.png")
    assert cache.key(tmp_path / "a.png") == cache.key(tmp_path / "c.png") != cache.key(tmp_path / "b.png")
    assert cache.key(tmp_path / "none.png") is None and cache.find(None) is None
    names = {fingerprint(tower, config, "fp32"), fingerprint(tower, config, "bf16")}
    config.mm_vision_select_layer = -1
    names.add(fingerprint(tower, config, "fp32"))
    tower.image_processor.image_mean = [0.5, 0.5, 0.5]
    names.add(fingerprint(tower, config, "fp32"))
    next(tower.parameters()).data.flatten()[0] += 1
    names.add(fingerprint(tower, config, "fp32"))
    assert len(names) == 5


def test_the_limit_holds_for_the_whole_folder_and_is_told_once(
    make_model: Callable[..., Any], records: Records, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = make_model()
    step(made, cached(made, tmp_path), records[:1])
    size = next(tmp_path.rglob("*.safetensors")).stat().st_size
    loss = step(made, made.encoder, records)
    encoder = cached(made, tmp_path, 2 * size + size // 2)
    torch.testing.assert_close(step(made, encoder, records), loss, rtol=1e-6, atol=0)
    torch.testing.assert_close(step(made, encoder, records), loss, rtol=1e-6, atol=0)
    assert len(list(tmp_path.rglob("*.safetensors"))) == 2
    assert capsys.readouterr().out.count("its limit is reached; raise --cache_gb") == 1


def test_a_full_disk_ends_the_keeping_and_not_the_run(
    make_model: Callable[..., Any],
    records: Records,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def full(self: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(feature_cache.Path, "replace", full)
    made = make_model()
    assert torch.isfinite(step(made, cached(made, tmp_path), records))
    assert "no further features are kept: [Errno 28] No space left on device" in capsys.readouterr().out
    assert not [file for file in tmp_path.rglob("*") if file.is_file()]


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (["--tune_vision_tower", "True"], "the vision tower is trained, so that its features change"),
        (["--lora_targets", "language,vision"], "the vision tower is trained, so that its features change"),
        (["--unpadded", "False"], "batches are padded; it needs --unpadded True"),
    ],
)
def test_a_run_that_cannot_use_it_says_why_and_leaves_it_out(
    flags: list[str], reason: str, tmp_path: Path, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = make_tiny_llava(tmp_path / "model")
    run(model, pictures, tmp_path / "run", "--cache_features", str(tmp_path / "kept"), "--max_steps", "1", *flags)
    assert f"--cache_features {tmp_path / 'kept'} is left out: {reason}" in capsys.readouterr().out
    assert not (tmp_path / "kept").exists()


def test_under_zero_3_it_is_left_out(make_model: Callable[..., Any]) -> None:
    tower = make_model().model.get_vision_tower()
    assert reason_against(tower, True, 3) == "under ZeRO-3 every rank has to run the tower in every step"
    assert reason_against(tower, True, 2) is None


def test_pictures_of_one_name_in_two_folders_are_two_pictures(
    make_model: Callable[..., Any], records: Records, pictures: Path, tmp_path: Path
) -> None:
    """As with --replay_image_folder: general records may name their pictures as the run's own do."""
    made = make_model()
    shutil.copyfile(pictures / "1.png", tmp_path / "0.png")
    own = RecordDataset(records[:1], made.encoder)
    general = RecordDataset(records[:1], replace(made.encoder, image_folder=tmp_path))
    both = Mixed(own, general, [0])
    batch = Collator(0, torch.zeros(3, 56, 56), None, True)([both[0], both[1]])
    assert len(batch["images"]) == 2 and not torch.equal(batch["images"][0], batch["images"][1])
