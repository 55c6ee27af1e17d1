"""The task for lmms-eval asks what evaluate asks, and scores as evaluate scores."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from llava_finetune.cli import main
from llava_finetune.evaluation import metrics

ANSWERS = ("Red.", " red", "dark  RED", "RED!", "rot", "", "two", "2", "the red", "réd")


def loader() -> type[yaml.SafeLoader]:
    """YAML as lmms-eval reads it: `!function file.name` stays a text here."""

    class Loader(yaml.SafeLoader):
        pass

    Loader.add_constructor("!function", lambda reader, node: reader.construct_scalar(node))  # type: ignore[arg-type]
    return Loader


def scoring(task: Path) -> Any:
    """scoring.py of a task, loaded by its path as lmms-eval does."""
    spec = importlib.util.spec_from_file_location("scoring", task / "scoring.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def records_file(folder: Path, **more: object) -> Path:
    Image.new("RGB", (4, 6), (200, 0, 0)).save(folder / "röt.png")
    turns = [
        {"from": "human", "value": "<image>\nWhich colour?\nAnswer briefly."},
        {"from": "gpt", "value": "red"},
        {"from": "human", "value": "Sure?"},
        {"from": "gpt", "value": "yes"},
    ]
    records = [{"id": "a", "image": "röt.png", "conversations": turns[: 2 if more else 4], **more}]
    (folder / "test.json").write_text(json.dumps(records))
    return folder / "test.json"


def rows(task: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (task / "questions.jsonl").read_text().splitlines()]


def test_it_asks_the_same_questions_and_scores_them_alike(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    task = tmp_path / "My parts"
    assert main(["lmms-task", str(records_file(tmp_path)), str(task), "--images", str(tmp_path)]) == 0
    assert "2 questions in" in capsys.readouterr().out
    described = yaml.load((task / "my_parts.yaml").read_text(), loader())
    assert described["task"] == "my_parts"
    assert described["dataset_kwargs"]["data_files"]["test"] == str(task / "questions.jsonl")
    assert [metric["metric"] for metric in described["metric_list"]] == ["exact_match"]
    asked = rows(task)
    assert [row["question"] for row in asked] == ["Which colour?\nAnswer briefly.", "Sure?"]
    module = scoring(task)
    assert module.pictures(asked[1])[0].size == (4, 6), "a later question is asked about its record's picture too"
    for said in ANSWERS:
        ours = metrics.is_right({"answer": said, "reference": "red"})
        assert module.score(asked[0], [said]) == {"exact_match": float(ours)}
    assert sorted(file.name for file in task.iterdir()) == ["my_parts.yaml", "questions.jsonl", "scoring.py"]


def test_ten_references_are_scored_by_the_official_vqa_accuracy_too(tmp_path: Path) -> None:
    references = ["red"] * 2 + ["2"] * 2 + ["crimson"] * 6
    task, data = tmp_path / "vqa", records_file(tmp_path, answers=references)
    assert main(["lmms-task", str(data), str(task), "--images", str(tmp_path)]) == 0
    module, (row,) = scoring(task), rows(task)
    for said in ANSWERS:
        prediction = {"question": "q", "answer": said, "reference": "red", "answers": references}
        assert module.score(row, [said])["vqa_accuracy"] == metrics.score([prediction])["vqa_accuracy"]
    assert "  - metric: vqa_accuracy\n" in (task / "vqa.yaml").read_text()


def test_a_picture_within_the_text_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = records_file(tmp_path)
    records = json.loads(data.read_text())
    records[0]["conversations"][0]["value"] = "Which colour has <image> here?"
    data.write_text(json.dumps(records))
    assert main(["lmms-task", str(data), str(tmp_path / "task"), "--images", str(tmp_path)]) == 0
    assert "of 2 questions have a picture within or behind their text" in capsys.readouterr().out


def test_what_is_there_is_kept_and_a_refused_task_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, task = records_file(tmp_path), tmp_path / "task"
    (tmp_path / "röt.png").rename(tmp_path / "gone.png")
    assert main(["lmms-task", str(data), str(task), "--images", str(tmp_path)]) == 1
    assert "1 of 1 pictures are not in" in capsys.readouterr().err
    assert main(["lmms-task", str(data), str(task), "--images", str(tmp_path), "--name", "9 parts"]) == 1
    assert not task.exists()
    task.mkdir()
    (task / "mine.txt").write_text("kept")
    assert main(["lmms-task", str(data), str(task), "--images", str(tmp_path)]) == 1
    assert "already there" in capsys.readouterr().err
    assert [file.name for file in task.iterdir()] == ["mine.txt"]


def test_half_a_character_is_refused_in_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, task = records_file(tmp_path, question_type="x"), tmp_path / "task"
    path.write_text(path.read_text().replace("Which colour?", "Which \\ud800?"))
    assert main(["lmms-task", str(path), str(task), "--images", str(tmp_path)]) == 1
    assert "half of a surrogate pair" in capsys.readouterr().err
    assert not task.exists()
