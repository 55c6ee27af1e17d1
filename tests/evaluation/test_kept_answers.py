"""What ends an evaluation costs the batch at hand: the same command goes on and ends with the same result."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from llava_finetune.errors import UserError
from llava_finetune.evaluation import generate_answers
from llava_finetune.evaluation.evaluate import main
from llava_finetune.evaluation.kept_answers import KeptAnswers, forget, place_of, told


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Indices of the questions that the model was asked, in order."""
    found: list[int] = []
    usual = generate_answers._LlavaAsker.generate

    def generate(self: Any, indices: Sequence[int], max_new_tokens: int) -> list[list[int]]:
        out = usual(self, indices, max_new_tokens)
        found.extend(indices)
        return out

    monkeypatch.setattr(generate_answers._LlavaAsker, "generate", generate)
    return found


def test_a_picture_that_cannot_be_read_costs_its_batch_alone(
    tiny: Path, questions: Path, tmp_path: Path, asked: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    folder, output = tmp_path / "pictures", tmp_path / "out"
    shutil.copytree(questions, folder)
    words = ["--model", str(tiny), "--images", str(folder), "--output", str(output), "--dtype", "fp32"]
    words += ["--max_new_tokens", "3", "--batch_size", "4", "--data", str(folder / "records.json")]
    assert main([*words, "--name", "usual"]) == 0
    asked.clear()
    whole = (folder / "6.png").read_bytes()
    (folder / "6.png").write_bytes(whole[:40])
    with pytest.raises(UserError) as caught:
        main(words)
    kept = list(asked)
    assert 0 < len(kept) < 18
    said = str(caught.value)
    assert "6.png" in said and f"{len(kept)} of 18 answers are kept: give the same command again" in said
    assert "\n" not in said
    assert not list(output.glob("[!.]*final*")), "no score over fewer questions"
    # With other settings nothing of it is taken.
    asked.clear()
    with pytest.raises(UserError, match=f"{len(kept)} of 18"):
        main([*words, "--max_new_tokens", "2"])
    assert asked == kept
    # Mended, only the others are asked, in the same batches.
    (folder / "6.png").write_bytes(whole)
    asked.clear()
    assert main(words) == 0
    assert f"{len(kept)} of 18 answers are taken from" in capsys.readouterr().out
    assert sorted([*asked, *kept]) == list(range(18))
    assert (output / "predictions-final.jsonl").read_bytes() == (output / "predictions-usual.jsonl").read_bytes()
    assert not [path.name for path in output.iterdir() if path.name.startswith(".")], "nothing is left"


def test_a_record_may_be_taken_out_before_the_run_goes_on(
    tiny: Path, questions: Path, tmp_path: Path, asked: list[int]
) -> None:
    folder, output = tmp_path / "pictures", tmp_path / "out"
    shutil.copytree(questions, folder)
    (folder / "6.png").write_bytes(b"no picture")
    words = ["--model", str(tiny), "--images", str(folder), "--output", str(output), "--dtype", "fp32"]
    words += ["--max_new_tokens", "3", "--batch_size", "4", "--data", str(folder / "records.json")]
    with pytest.raises(UserError, match="records of --data may be taken out or mended"):
        main(words)
    first = len(asked)
    rows = [row for row in json.loads((folder / "records.json").read_text()) if row["id"] != "q-6"]
    (folder / "records.json").write_text(json.dumps(rows))
    assert main(words) == 0
    assert len(asked) == 16 and first, "each of the sixteen once"
    assert json.loads((output / "scores-final.json").read_text())["count"] == 16


def test_what_is_cut_off_or_no_answer_is_asked_again(questions: Path, tmp_path: Path) -> None:
    path = place_of(tmp_path, "final", {"bits": 16})
    assert path != place_of(tmp_path, "final", {"bits": 4})
    rows = generate_answers.questions_from(json.loads((questions / "records.json").read_text()))[:4]
    kept = KeptAnswers(path)
    assert kept.found(rows) == {}
    kept.add(row.prediction(f"a {index}", 1, False) for index, row in enumerate(rows))
    lines = path.read_bytes().splitlines()
    other = json.dumps({**json.loads(lines[2]), "reference": "changed"}).encode()
    path.write_bytes(b"\n".join([b"\xff[[", b"5", b"[" * 5000, lines[0], b"{}", lines[1][:-9], other, lines[3]]))
    assert {index: row["answer"] for index, row in kept.found(rows).items()} == {0: "a 0", 3: "a 3"}
    beside = tmp_path / ".answers-final-b-0123456789abcdef.jsonl"
    beside.write_text("")
    forget(tmp_path, "final")
    assert list(tmp_path.iterdir()) == [beside], "those of another name stay"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full to stand for a full disk")
def test_a_full_disk_ends_no_evaluation(capsys: pytest.CaptureFixture[str]) -> None:
    kept = KeptAnswers(Path("/dev/full"))
    kept.add([{"answer": "a"}])
    kept.add([{"answer": "b"}])
    error = capsys.readouterr().err
    assert error.count("WARNING: answers are not kept as they come: /dev/full: the disk is full") == 1


def test_ctrl_c_says_how_to_go_on(tmp_path: Path, questions: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = generate_answers.questions_from(json.loads((questions / "records.json").read_text()))[:2]
    kept = KeptAnswers(tmp_path / "kept.jsonl")
    with pytest.raises(KeyboardInterrupt), told(kept, rows):
        raise KeyboardInterrupt
    assert capsys.readouterr().err == "", "nothing was answered yet"
    kept.add([rows[0].prediction("a", 1, False)])
    with pytest.raises(KeyboardInterrupt), told(kept, rows):
        raise KeyboardInterrupt
    assert capsys.readouterr().err.startswith("1 of 2 answers are kept: give the same command again")
