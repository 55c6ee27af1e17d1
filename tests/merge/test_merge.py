"""Merge: the merged folder answers as the adapter did, in upstream's layout, or nothing is written."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from llava_finetune.errors import UserError
from llava_finetune.merge.command import HeldOut, main, merge
from llava_finetune.saved.manifest import weights_sha256

Make = Callable[[str], Path]
FAMILIES = ("llava-1.5", "1.6-vicuna", "1.6-mistral", "1.6-yi")


def test_greedy_answers_are_identical_on_100_records(adapter: Path, held_out: Path, tmp_path: Path) -> None:
    wanted = HeldOut(held_out / "records.json", held_out, num_records=8, num_answers=100)
    result = merge(str(adapter), tmp_path / "merged", held_out=wanted)
    assert (result.answers, result.same_beside) == (100, 100)
    assert result.records == 8
    assert result.largest_difference < 1e-4
    manifest = json.loads((tmp_path / "merged" / "llava_finetune.json").read_text())
    assert manifest["kind"] == "model"
    assert manifest["merged_from"] == str(adapter.resolve())
    assert manifest["merged_sha256"] == weights_sha256(adapter)
    assert manifest["verified"]["records"] == 8


@pytest.fixture(scope="module")
def trained(family: Make, held_out: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the driver: LoRA and projector, 12 steps in bf16."""
    from llava_finetune.training.train import main as train

    folder = tmp_path_factory.mktemp("trained")
    records = json.loads((held_out / "records.json").read_text())
    for index, record in enumerate(records):
        record["conversations"][1]["value"] = ("a red circle", "two boxes", "nothing at all")[index % 3]
    (folder / "train.json").write_text(json.dumps(records))
    words = f"--model_name_or_path {family('llava-1.5')} --data_path {folder / 'train.json'} --image_folder {held_out} "
    words += f"--output_dir {folder / 'run'} --lora_enable True --lora_r 16 --lora_alpha 32 --precision bf16 "
    words += (
        "--max_steps 12 --per_device_train_batch_size 4 --learning_rate 2e-3 --save_strategy no --check_data False "
    )
    words += "--use_cpu True --gradient_checkpointing False --dataloader_num_workers 0 --report_to none"
    assert train(words.split()) == 0
    return folder / "run"


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_a_trained_run_merged_answers_identically_on_100_records(
    trained: Path, held_out: Path, dtype: str, tmp_path: Path, kit: SimpleNamespace
) -> None:
    """In bf16 as in fp32: the folder has the weights that every command makes of the adapter, bit for bit."""
    from llava_finetune.model.loading import load

    wanted = HeldOut(held_out / "records.json", held_out, num_answers=100)
    result = merge(str(trained), tmp_path / "merged", dtype=dtype, held_out=wanted)
    assert result.answers == 100
    assert result.same_beside == 100 if dtype == "float32" else result.same_beside >= 80
    used = load(str(trained), dtype=dtype, device="cpu").model.state_dict()
    merged = load(str(tmp_path / "merged"), dtype=dtype, device="cpu").model.state_dict()
    assert used.keys() == merged.keys()
    assert all(torch.equal(used[name], merged[name]) for name in used)


def test_another_answer_is_refused_with_both(adapter: Path, held_out: Path, tmp_path: Path, monkeypatch: Any) -> None:
    from llava_finetune.merge import command as module

    answers = iter([["a", "b"], ["a", "b"], ["a", "c"]])
    monkeypatch.setattr(module, "greedy_answers", lambda *_: next(answers))
    wanted = HeldOut(held_out / "records.json", held_out, num_answers=2)
    with pytest.raises(UserError, match=r"1 of 2 greedy answers are identical, .* answers 'b', the merged folder 'c'"):
        merge(str(adapter), tmp_path / "merged", held_out=wanted)
    assert list(tmp_path.iterdir()) == []


def test_the_adapter_changed_the_answers(adapter: Path, family: Make, held_out: Path) -> None:
    """Without this the test above could pass on an adapter that does nothing."""
    from llava_finetune.merge.command import greedy_answers
    from llava_finetune.model.loading import load

    wanted = HeldOut(held_out / "records.json", held_out, num_answers=10)
    tuned = greedy_answers(load(str(adapter), dtype="fp32"), str(adapter), wanted)
    base = greedy_answers(load(str(family("llava-1.5")), dtype="fp32"), str(adapter), wanted)
    assert sum(a != b for a, b in zip(tuned, base, strict=True)) >= 8


@pytest.mark.parametrize("name", FAMILIES[1:])
def test_every_family_merges_and_loads_by_its_files(
    name: str, family: Make, kit: SimpleNamespace, tmp_path: Path
) -> None:
    kit.train_adapter(family(name), tmp_path / "run")
    result = merge(str(tmp_path / "run"), tmp_path / "merged")
    assert result.largest_difference < 1e-4
    assert result.adapted == 14
    base, merged = kit.tensors(family(name)), kit.tensors(tmp_path / "merged")
    changed = {
        key
        for key in merged
        if not torch.equal(merged[key], base[key.replace("vision_tower.vision_model", "vision_tower")])
    }
    assert len([key for key in changed if "layers" in key]) == 14
    assert {key for key in changed if "mm_projector" in key} == {key for key in merged if "mm_projector" in key}
    assert not any("vision_tower" in key for key in changed)


def test_an_adapter_in_the_tower_is_merged_and_the_tower_kept(
    family: Make, kit: SimpleNamespace, tmp_path: Path
) -> None:
    targets = r".*(model\.layers\.\d+\.self_attn\.q_proj|vision_tower.*self_attn\.v_proj)"
    kit.train_adapter(family("llava-1.5"), tmp_path / "run", targets)
    result = merge(str(tmp_path / "run"), tmp_path / "merged")
    assert result.adapted == 4
    assert any("vision_tower" in name for name in kit.tensors(tmp_path / "merged"))
    assert json.loads((tmp_path / "merged" / "config.json").read_text())["unfreeze_mm_vision_tower"] is True


def test_bf16_is_merged_within_its_noise(adapter: Path, tmp_path: Path, kit: SimpleNamespace) -> None:
    result = merge(str(adapter), tmp_path / "merged", dtype="bfloat16")
    assert 0 < result.largest_difference <= result.allowed
    assert {value.dtype for value in kit.tensors(tmp_path / "merged").values()} == {torch.bfloat16}


def test_a_projector_alone_is_merged(family: Make, tmp_path: Path, kit: SimpleNamespace) -> None:
    from llava_finetune.saved.manifest import write_manifest

    base, run = family("llava-1.5"), tmp_path / "run"
    run.mkdir()
    state = {k: v + 0.1 for k, v in kit.tensors(base).items() if "mm_projector" in k}
    torch.save(state, run / "mm_projector.bin")
    shutil.copyfile(base / "config.json", run / "config.json")
    write_manifest(run, kind="projector", base=str(base), conversation="vicuna_v1", dtype="float32")
    merge(str(run), tmp_path / "merged")
    merged = kit.tensors(tmp_path / "merged")
    assert all(torch.equal(merged[key], value) for key, value in state.items())


def test_the_difference_in_4_bit_is_printed(adapter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(adapter), str(tmp_path / "merged"), "--compare-4bit"]) == 0
    out = capsys.readouterr().out
    assert "logits of merged and adapter differ by at most" in out
    assert "4-bit: logits of merged and of base plus adapter differ by at most" in out


def test_a_wrong_base_is_refused_with_hashes_and_names(
    adapter: Path, family: Make, tmp_path: Path, kit: SimpleNamespace
) -> None:
    from llava_finetune.saved.manifest import weights_sha256

    right, wrong = family("llava-1.5"), tmp_path / "other-base"
    shutil.copytree(right, wrong)
    kit.sharpen(wrong)
    with pytest.raises(UserError) as caught:
        merge(str(adapter), tmp_path / "merged", base=str(wrong))
    for part in (str(right), str(wrong), str(weights_sha256(right))[:12], str(weights_sha256(wrong))[:12]):
        assert part in str(caught.value)
    assert not (tmp_path / "merged").exists()


def test_a_base_of_the_hub_is_told_from_another_by_its_cached_files(
    family: Make, tmp_path: Path, kit: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The manifest of a run over a hub id holds the hash of what the hub gave; a clone of it is the same base."""
    from huggingface_hub import constants

    from llava_finetune.model.loaded import base_of
    from llava_finetune.saved.manifest import weights_sha256, write_manifest

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    repository = tmp_path / "cache" / "models--some--base"
    shutil.copytree(family("llava-1.5"), repository / "snapshots" / "abc")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")
    (tmp_path / "run").mkdir()
    manifest = write_manifest(
        tmp_path / "run", kind="adapter", base="some/base", conversation="vicuna_v1", dtype="float32"
    )
    assert manifest["base_sha256"] == weights_sha256(family("llava-1.5"))
    clone, wrong = tmp_path / "clone", tmp_path / "wrong"
    for folder in (clone, wrong):
        shutil.copytree(family("llava-1.5"), folder)
    (clone / "mm_projector.bin").write_bytes(b"beside the weights in the repository, and read by no loader")
    kit.sharpen(wrong)
    assert base_of(tmp_path / "run", str(clone), manifest) == str(clone)
    assert base_of(tmp_path / "run", None, manifest) == "some/base"
    with pytest.raises(UserError, match=rf"was trained on some/base \(weights .*, but {wrong} holds other weights"):
        base_of(tmp_path / "run", str(wrong), manifest)
    assert weights_sha256("some/other") is None


def with_tower(adapter: Path, family: Make, run: Path, *, whole: bool) -> str:
    """A run whose tower was trained beside the adapter, one bias moved by 1, saved whole or that alone; its name."""
    shutil.copytree(adapter, run)
    tower = load_tower(family("llava-1.5"))
    moved = next(name for name in tower if name.endswith("layers.0.mlp.fc1.bias"))
    tower[moved] = tower[moved] + 1
    kept = tower if whole else {moved: tower[moved]}
    state = torch.load(run / "non_lora_trainables.bin")
    state |= {f"base_model.model.model.vision_tower.{name}": value for name, value in kept.items()}
    torch.save(state, run / "non_lora_trainables.bin")
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps({**config, "unfreeze_mm_vision_tower": True}))
    return moved


def test_a_tower_trained_whole_beside_an_adapter_is_merged(
    adapter: Path, family: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    moved = with_tower(adapter, family, tmp_path / "run", whole=True)
    result = merge(str(tmp_path / "run"), tmp_path / "merged")
    assert result.largest_difference < 1e-4
    before, after = load_tower(family("llava-1.5")), load_tower(tmp_path / "merged")
    assert after.keys() == before.keys()
    assert {name for name in after if not torch.equal(after[name], before[name])} == {moved}
    assert torch.equal(after[moved], before[moved] + 1)
    assert "newly initialized" not in caplog.text, "the adapter's files bring what the base lacks"


def test_half_a_trained_tower_is_refused_not_drawn_at_random(adapter: Path, family: Make, tmp_path: Path) -> None:
    with_tower(adapter, family, tmp_path / "run", whole=False)
    with pytest.raises(UserError, match=r"run: model\.vision_tower\.\S+ is missing from the weights \(and \d+ more\)"):
        merge(str(tmp_path / "run"), tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def load_tower(folder: Path) -> dict[str, torch.Tensor]:
    """The tower as every command loads it."""
    from llava_finetune.model.loading import load

    return dict(load(str(folder), dtype="fp32").model.get_vision_tower().state_dict())


def test_a_broken_merge_is_noticed_and_nothing_is_written(
    adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from llava_finetune.merge import weights

    honest = weights.model_tensors

    def halved(model: object, *, with_tower: bool) -> dict[str, torch.Tensor]:
        state = honest(model, with_tower=with_tower)
        return {name: value / 2 if "q_proj" in name else value for name, value in state.items()}

    monkeypatch.setattr(weights, "model_tensors", halved)
    with pytest.raises(UserError, match="merged logits differ from the adapter's by"):
        merge(str(adapter), tmp_path / "merged")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("dtype", "scale", "allowed"),
    [(torch.float32, 1, 1e-4), (torch.float32, 100, 1e-3), (torch.bfloat16, 0.5, 2**-4), (torch.float16, 4, 2**-5)],
)
def test_logits_may_differ_by_the_dtypes_noise_at_their_size(dtype: torch.dtype, scale: float, allowed: float) -> None:
    from llava_finetune.merge.weights import difference

    before = [torch.tensor([0.0, 0.25]), torch.tensor([-scale, 0.0])]
    found = difference(before, [before[0] + 0.125, before[1] - 0.25], dtype)
    assert found.allowed == pytest.approx(allowed)
    assert found.largest == 0.25


def test_twice_the_allowed_difference_is_refused(adapter: Path, tmp_path: Path, monkeypatch: Any) -> None:
    from llava_finetune.merge import weights

    honest = weights.difference

    def twice(before: Any, after: Any, dtype: torch.dtype) -> Any:
        allowed = honest(before, after, dtype).allowed
        return honest(before, [logits + 2 * allowed for logits in after], dtype)

    monkeypatch.setattr(weights, "difference", twice)
    with pytest.raises(UserError, match=r"merged logits differ from the adapter's by .*, allowed .* in float32"):
        merge(str(adapter), tmp_path / "merged")
    assert list(tmp_path.iterdir()) == []


def test_a_difference_as_large_as_allowed_is_accepted_and_told_as_json(
    adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from llava_finetune.merge import weights

    monkeypatch.setattr(weights, "difference", lambda *_: weights.Difference(1e-4, 1e-4))
    assert main([str(adapter), str(tmp_path / "merged"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["largest_difference"], told["allowed"], told["dtype"]) == (1e-4, 1e-4, "float32")
    assert told["adapted"] == 14 and told["adapter"] == str(adapter)


def test_nan_in_an_adapter_is_refused(adapter: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    run = tmp_path / "run"
    shutil.copytree(adapter, run)
    state = load_file(run / "adapter_model.safetensors")
    first = next(iter(state))
    state[first] = state[first] * float("nan")
    save_file(state, run / "adapter_model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"is not finite|NaN"):
        merge(str(run), tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_adapter_tensors_that_fit_nothing_are_refused(adapter: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    run = tmp_path / "run"
    shutil.copytree(adapter, run)
    state = load_file(run / "adapter_model.safetensors")
    name = next(iter(state))
    state[name.replace("layers.0", "layers.9")] = state[name].clone()
    save_file(state, run / "adapter_model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"adapter tensors do not match the base, first .*layers.9"):
        merge(str(run), tmp_path / "merged")


def test_a_pickle_in_place_of_the_projector_cannot_run(adapter: Path, tmp_path: Path) -> None:
    import pickle

    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str, str]]:
            return (open, (str(tmp_path / "ran"), "w"))

    run = tmp_path / "run"
    shutil.copytree(adapter, run)
    (run / "non_lora_trainables.bin").write_bytes(pickle.dumps({"a": Evil()}, protocol=2))
    with pytest.raises(UserError, match=r"non_lora_trainables.bin: refused: .* a pickle can run code"):
        merge(str(run), tmp_path / "merged")
    assert not (tmp_path / "ran").exists()


def test_a_whole_model_has_nothing_to_merge(family: Make, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"is a whole model: it has no adapter_config\.json or mm_projector\.bin to merge"
    ):
        merge(str(family("llava-1.5")), tmp_path / "out")


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no model weights"):
        merge(str(tmp_path / "empty"), tmp_path / "out")


def copied(adapter: Path, base: Path, folder: Path, **config: object) -> tuple[Path, Path]:
    """An adapter whose manifest names no hash, as upstream's own, and a copy of its base; both configs changed."""
    for source, name in ((adapter, "run"), (base, "base")):
        shutil.copytree(source, folder / name)
        path = folder / name / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **config}))
    (folder / "run" / "llava_finetune.json").unlink()
    return folder / "run", folder / "base"


def test_half_a_shard_of_the_base_is_refused(adapter: Path, family: Make, tmp_path: Path) -> None:
    run, base = copied(adapter, family("llava-1.5"), tmp_path)
    weights = base / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
    with pytest.raises(UserError, match=rf"{weights}: the shard is not whole"):
        merge(str(run), tmp_path / "out", base=str(base))
    assert not (tmp_path / "out").exists()


def test_half_an_adapter_is_refused(adapter: Path, tmp_path: Path) -> None:
    shutil.copytree(adapter, tmp_path / "run")
    weights = tmp_path / "run" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
    with pytest.raises(UserError, match=rf"{weights}: the shard is not whole \(.* its header promises"):
        merge(str(tmp_path / "run"), tmp_path / "out")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "llava_qwen"}, "a model of another family .*llava_qwen"),
        ({"model_type": "gpt2"}, "a model of another family .*gpt2"),
        ({"architectures": ["LlavaForConditionalGeneration"]}, "a llava-hf checkpoint .* llava-finetune import"),
    ],
)
def test_an_unknown_architecture_is_refused(
    config: dict[str, object], message: str, adapter: Path, family: Make, tmp_path: Path
) -> None:
    run, base = copied(adapter, family("llava-1.5"), tmp_path, **config)
    with pytest.raises(UserError, match=message):
        merge(str(run), tmp_path / "out", base=str(base))
    assert not (tmp_path / "out").exists()
