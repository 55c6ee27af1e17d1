"""Evaluation answers every question once, in order, the same in any batch; bad input is one clear message."""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from data_prep.files import sha256_of
from data_prep.records.record import read_records
from llava_finetune.errors import UsageError, UserError
from llava_finetune.evaluation import evaluate, metrics
from llava_finetune.evaluation.evaluate import main
from llava_finetune.evaluation.generate_answers import Pictures, answer, questions_from, stop_ids, with_others_pictures
from llava_finetune.evaluation.processes import spread
from llava_finetune.model.loaded import Loaded, kind_of
from llava_finetune.model.loading import load
from llava_finetune.saved.manifest import weights_sha256, write_json


@pytest.fixture(scope="module")
def loaded(tiny: Path) -> Loaded:
    return load(tiny, dtype="fp32")


def quiet(_: str) -> None:
    return None


def test_questions_are_asked_alone_and_keep_their_order_and_pictures(questions: Path) -> None:
    found = questions_from(read_records(questions / "records.json"))
    assert [(q.id, q.turn) for q in found[:3]] == [("q-0", 0), ("q-0", 1), ("q-1", 0)]
    assert found[1].images == ("0.png",)
    assert found[-2].images == ("0.png", "1.png")
    assert found[-1].images == ()
    assert len(questions_from(read_records(questions / "records.json"), max_images=2)) == 4
    assert len(questions_from(read_records(questions / "records.json"), limit=3)) == 3
    drawn = [questions_from(read_records(questions / "records.json"), sample=5) for _ in range(2)]
    assert drawn[0] == drawn[1]
    assert [found.index(question) for question in drawn[0]] == sorted(found.index(question) for question in drawn[0])
    assert len(drawn[0]) == 5


def test_answers_do_not_depend_on_the_batch(loaded: Loaded, questions: Path) -> None:
    asked = questions_from(read_records(questions / "records.json"))
    one = answer(loaded, asked, questions, batch_size=1, max_new_tokens=5, say=quiet)
    many = answer(loaded, asked, questions, batch_size=7, max_new_tokens=5, say=quiet)
    assert [p["answer"] for p in one] == [p["answer"] for p in many]
    assert [p["id"] for p in one] == [q.id for q in asked]
    assert any(p["answer"] for p in one)
    assert all(p["num_tokens"] <= 5 for p in one)


def test_a_cut_off_answer_is_marked(loaded: Loaded, questions: Path) -> None:
    asked = questions_from(read_records(questions / "records.json"), limit=4)
    found = answer(loaded, asked, questions, max_new_tokens=1, say=quiet)
    stops = set(stop_ids(loaded))
    assert stops
    for prediction in found:
        assert prediction["truncated"] == (prediction["num_tokens"] == 1)


def test_blank_pictures_are_all_zero_and_shuffled_ones_are_never_the_own(loaded: Loaded, questions: Path) -> None:
    blank = Pictures(questions, loaded.image_processor, loaded.model.config, "blank")
    assert not blank.get("3.png")[0].any()
    asked = questions_from(read_records(questions / "records.json"))
    others = with_others_pictures(asked)
    pairs = [
        pair for one, other in zip(asked, others, strict=True) for pair in zip(one.images, other.images, strict=True)
    ]
    assert all(name != other for name, other in pairs)
    assert {name for name, _ in pairs} == {other for _, other in pairs}
    assert [one.asked for one in asked] == [one.asked for one in others]
    with pytest.raises(UserError, match="at least two pictures"):
        with_others_pictures(asked[:2])


def test_the_command_writes_every_prediction_and_its_scores(tiny: Path, questions: Path, tmp_path: Path) -> None:
    words = ["--model", str(tiny), "--data", str(questions / "records.json"), "--image_folder", str(questions)]
    words += ["--output", str(tmp_path), "--max_new_tokens", "4", "--dtype", "fp32"]
    assert main([*words, "--train_data", str(questions / "records.json")]) == 0
    rows = [json.loads(line) for line in (tmp_path / "predictions-final.jsonl").read_text().splitlines()]
    assert len(rows) == 18
    assert [row["type"] for row in rows[:2]] == ["number", "yes_no"]
    scores = json.loads((tmp_path / "scores-final.json").read_text())
    assert scores["count"] == 18
    assert scores["exact_match"] == metrics.score(rows)["exact_match"]
    assert scores["model_sha256"] == weights_sha256(tiny) and scores["base_sha256"] is None
    assert scores["data_sha256"] == sha256_of(questions / "records.json")
    prior = json.loads((tmp_path / "scores-text_prior.json").read_text())
    assert prior["by_type"]["yes_no"]["exact_match"] == 1.0
    assert main([*words, "--name", "again", "--num_processes", "2"]) == 0
    again = [json.loads(line) for line in (tmp_path / "predictions-again.jsonl").read_text().splitlines()]
    assert again == rows


def test_predictions_from_anywhere_are_set_beside_the_prior_of_a_training_file(
    questions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = questions_from(read_records(questions / "records.json"))
    rows = [{"id": one.id, "turn": one.turn, "answer": one.reference} for one in asked]
    (tmp_path / "answers.jsonl").write_text("\n".join(map(json.dumps, rows)))
    words = ["--predictions", str(tmp_path / "answers.jsonl"), "--data", str(questions / "records.json")]
    words += ["--train_data", str(questions / "records.json"), "--output", str(tmp_path / "out")]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "text_prior  all      exact match" in said and "final       all      exact match 100.00%" in said
    scores = json.loads((tmp_path / "out" / "scores-final.json").read_text())
    assert scores["predictions_sha256"] == sha256_of(tmp_path / "answers.jsonl")
    assert scores["data_sha256"] == sha256_of(questions / "records.json")
    scores = json.loads((tmp_path / "out" / "scores-text_prior.json").read_text())
    assert scores["count"] == len(rows) and 0 < scores["exact_match"] <= 1
    with pytest.raises(UserError, match=r"--train_data .*gone\.json: no such file; give the records that"):
        main([*words[:4], "--train_data", str(tmp_path / "gone.json")])
    (tmp_path / "empty.json").write_text("[]")
    with pytest.raises(UserError, match=r"--train_data .*empty\.json: the text prior needs training records"):
        main([*words[:4], "--train_data", str(tmp_path / "empty.json")])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "either --model to answer the questions, or --predictions"),
        (["--model", "m", "--predictions", "p"], "either --model"),
        (["--model", "m"], "--data RECORDS"),
        (
            ["--model", "a/hub-id", "--data", "d"],
            "--model a/hub-id is no folder here: say with --output where",
        ),
    ],
)
def test_wrong_use_is_named(words: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        main(words)


def test_a_missing_picture_names_the_file(tiny: Path, questions: Path, tmp_path: Path) -> None:
    records = json.loads((questions / "records.json").read_text())
    records[2]["image"] = "gone.png"
    (tmp_path / "records.json").write_text(json.dumps(records))
    words = ["--model", str(tiny), "--data", str(tmp_path / "records.json"), "--image_folder", str(questions)]
    with pytest.raises(UserError, match=r"gone\.png"):
        main([*words, "--output", str(tmp_path), "--max_new_tokens", "2"])
    assert not list(tmp_path.glob("predictions-*"))


def test_a_folder_is_known_by_its_files(tiny: Path, tmp_path: Path) -> None:
    named = tmp_path / "not-an-mpt-prompt-tuned-lora"
    shutil.copytree(tiny, named)
    assert kind_of(named) == "model"
    assert load(named).template == load(tiny).template
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"no model weights, adapter_config\.json or mm_projector\.bin"):
        load(tmp_path / "empty")


def test_half_a_shard_is_refused(tiny: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny, tmp_path / "half")
    file = tmp_path / "half" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(UserError, match=r"half/model\.safetensors: the shard is not whole"):
        load(tmp_path / "half")


def adapter_folder(tiny: Path, folder: Path, **manifest: Any) -> Path:
    folder.mkdir()
    (folder / "adapter_config.json").write_text("{}")
    shutil.copy(tiny / "config.json", folder)
    write_json(folder / "llava_finetune.json", manifest)
    return folder


def test_a_wrong_base_is_refused_with_both_names(tiny: Path, tmp_path: Path) -> None:
    folder = adapter_folder(tiny, tmp_path / "adapter", base="bases/other", base_sha256="f" * 64)
    with pytest.raises(UserError, match=r"was trained on bases/other \(weights ffffffffffff\), but .* other weights"):
        load(folder, base=str(tiny))


def test_an_adapter_without_a_known_base_says_what_to_give(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="give the base with --base"):
        load(adapter_folder(tiny, tmp_path / "adapter"))
    gone = adapter_folder(tiny, tmp_path / "moved", base="/gone/base", base_sha256=None)
    with pytest.raises(UserError, match="/gone/base is gone"):
        load(gone)


def test_the_base_is_asked_too_and_the_change_is_told(
    adapter: Path, questions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--model", str(adapter), "--data", str(questions / "records.json"), "--image_folder", str(questions)]
    words += ["--output", str(tmp_path), "--max_new_tokens", "2", "--dtype", "fp32", "--limit", "4"]
    assert main([*words, "--name", "hallucination", "--before"]) == 0
    text = capsys.readouterr().out
    assert "exact match against before:" in text and "false yes against before:" in text
    for name in ("hallucination", "hallucination-baseline"):
        assert json.loads((tmp_path / f"scores-{name}.json").read_text())["false_yes_interval"]
    named = json.loads((tmp_path / "scores-hallucination-baseline.json").read_text())["model"]
    assert named != str(adapter) and kind_of(named) == "model"
    with pytest.raises(UsageError, match="is no adapter, so nothing names its base"):
        main([*words[:1], named, *words[2:], "--before"])


def answering(code: str) -> str:
    """A Python that, whatever it is told, does this with `output` and `shard` of its command line."""
    return f"""#!{sys.executable}
import json, sys, time
words = sys.argv
output, shard = words[len(words) - words[::-1].index("--output")], words[words.index("--shard") + 1]
{code}
"""


def test_two_evaluations_into_one_folder_do_not_mix_their_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each process says which call it belongs to; both calls run at a time, in the same folder."""
    python = tmp_path / "python"
    act = (
        "time.sleep(0.3)\n"
        "row = {'id': words[words.index('--data') + 1], 'answer': shard}\n"
        "with open(output + '/' + shard.replace('/', '-of-') + '.jsonl', 'w') as file: json.dump(row, file)"
    )
    python.write_text(answering(act))
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    found: dict[str, Any] = {}

    def call(name: str) -> None:
        found[name] = spread(["--data", name], 2, 2, tmp_path)

    threads = [threading.Thread(target=call, args=(name,)) for name in ("one", "two")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for name in ("one", "two"):
        assert found[name] == [{"id": name, "answer": shard} for shard in ("0/2", "1/2")]
    assert [path.name for path in tmp_path.iterdir()] == ["python"], "nothing is left"


def test_the_first_process_that_fails_ends_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    python = tmp_path / "python"
    python.write_text(answering("sys.exit(3) if shard == '1/2' else time.sleep(60)"))
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    started, begin = [], subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda *a, **k: started.append(begin(*a, **k)) or started[-1])
    begun = time.monotonic()
    with pytest.raises(UserError, match="process 1 of 2 failed"):
        spread(["--data", "x"], 2, 2, tmp_path)
    assert time.monotonic() - begun < 30
    assert [process.returncode for process in started] == [-9, 3], "both are gone when their folder is removed"
    assert [path.name for path in tmp_path.iterdir()] == ["python"]


def test_a_name_is_refused_only_where_no_file_can_have_it(tmp_path: Path) -> None:
    def ask(name: str | None, **more: Any) -> None:
        given = {"output": None, "model": None, "upload": None, **more}
        evaluate._require_places(argparse.Namespace(name=name, **given))

    for name in ("a,b", "lora r=64", "v1:2", "step@3", "\u00e9" * 100, None):
        ask(name)
    for name in ("", ".a", "a/b", "a\0b", "\u00e9" * 101):
        with pytest.raises(UsageError, match="expected 1 to 200 bytes, no / and no dot at its start"):
            ask(name)


def test_predictions_that_are_only_shown_need_no_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Path) -> None:
        raise UserError("cannot be written")

    monkeypatch.setattr("llava_finetune.saved.new_folder.require_place", refuse)
    nothing = argparse.Namespace(name=None, output=None, model=None, upload=None)
    evaluate._require_places(nothing)
    with pytest.raises(UserError, match="cannot be written"):
        evaluate._require_places(argparse.Namespace(**{**vars(nothing), "output": Path("x")}))
