"""What a merge is verified on, what it refuses to write, how it cuts shards, and what it says, without a model."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from llava_finetune.errors import UserError
from llava_finetune.merge import command, weights


@pytest.fixture
def records(tmp_path: Path) -> Path:
    """A file of three records."""
    path = tmp_path / "test.json"
    path.write_text(json.dumps([{"id": str(number), "conversations": []} for number in range(3)]))
    return path


@pytest.mark.parametrize(
    ("folders", "wanted"),
    [
        ({"image_folder": "training"}, "training"),
        ({"image_folder": "training", "eval_image_folder": "held-out"}, "held-out"),
        ({"eval_image_folder": "held-out"}, "held-out"),
        ({}, None),
    ],
)
def test_held_out_records_have_the_evaluations_picture_folder_else_the_trainings(
    records: Path, folders: dict[str, str], wanted: str | None
) -> None:
    run = records.parent / "run"
    run.mkdir()
    arguments = {"data_path": str(records.parent / "train.json"), **folders}
    (run / "run.json").write_text(json.dumps({"arguments": arguments}))
    assert weights.run_records(run) == (records, Path(wanted) if wanted else None)


def test_a_family_is_compared_on_the_first_held_out_records(records: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def cases(family: str, chosen: list[dict[str, str]], images: Path, length: int) -> list[object]:
        return [(family, record["id"], images, length) for record in chosen]

    monkeypatch.setattr(weights, "record_cases", cases)
    loaded = SimpleNamespace(family="idefics", context_length=99)
    found, source = weights.load_cases("run", loaded, records, Path("pictures"), count=2)
    assert found == [("idefics", number, Path("pictures"), 99) for number in ("0", "1")]
    assert source == f"held-out records of {records}"


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("model.layers.0.q_proj.lora_A.weight", 1.0, "is left of the adapter: it was not merged"),
        ("model.layers.0.q_proj.base_layer.weight", 1.0, "is left of the adapter: it was not merged"),
        ("model.layers.0.q_proj.weight", float("inf"), "holds NaN or infinity after the merge; nothing was written"),
    ],
)
def test_what_is_left_of_an_adapter_or_is_no_number_is_not_written(name: str, value: float, told: str) -> None:
    weights.check_tensors({"model.layers.0.q_proj.weight": torch.ones(2)}, None)
    with pytest.raises(UserError, match=f"^{name} {told}"):
        weights.check_tensors({"model.norm.weight": torch.ones(2), name: torch.tensor([value])}, None)


def test_a_shard_ends_before_the_tensor_that_makes_it_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "SHARD_BYTES", 100)
    tensors = {name: torch.zeros(10) for name in "abcd"} | {"e": torch.zeros(60), "f": torch.zeros(5)}
    shards = [[name for name, _ in shard] for shard in weights._shards(tensors)]
    assert shards == [["a", "b"], ["c", "d"], ["e"], ["f"]]


def result(**more: object) -> command.Merged:
    values: dict[str, object] = {
        "adapter": "run", "folder": "merged", "base": "base", "dtype": "float32", "tensors": 9, "adapted": 2,
        "records": 4, "source": "generated conversations", "largest_difference": 0.0, "allowed": 1e-4, "answers": 0,
        "same_beside": 0, "difference_4bit": None, "seconds": 1.0,
    }  # fmt: skip
    return command.Merged(**{**values, **more})  # type: ignore[arg-type]


def test_answers_are_told_where_some_were_asked_for() -> None:
    assert "greedy answers" not in command.describe(result())
    told = command.describe(result(answers=5, same_beside=4))
    assert "greedy answers: 5 of 5 identical to those of run" in told
    assert "; 4 to those of the adapter run beside its base" in told


@pytest.mark.parametrize("is_folder", [True, False])
def test_the_card_is_of_the_run_where_that_is_a_folder_and_no_answer_need_be_asked_for(
    is_folder: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from llava_finetune.report import model_card

    adapter, cards, asked = tmp_path / "run", [], []
    if is_folder:
        adapter.mkdir()
    monkeypatch.setattr(command, "merge", lambda *_, held_out, **more: asked.append(held_out.num_answers) or result())
    monkeypatch.setattr(model_card, "write_model_card", lambda *words: cards.append(words))
    assert command.main([str(adapter), "merged", "--answers", "0"]) == 0
    assert asked == [0]
    assert cards == [(Path("merged"), adapter if is_folder else None)]
    assert capsys.readouterr().out.startswith("merged: 9 tensors in float32, 2 layers adapted")
