"""What ends an evaluation costs the batch at hand: the same command goes on and ends with the same result."""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from llava_finetune.errors import UserError
from llava_finetune.evaluation import generate_answers, kept_answers
from llava_finetune.evaluation.evaluate import main
from llava_finetune.evaluation.kept_answers import KeptAnswers, forget, made_with, place_of, told
from llava_finetune.saved.manifest import write_json
from tests import warm


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


def asked_of(folder: Path) -> list[generate_answers.Question]:
    return generate_answers.questions_from(json.loads((folder / "records.json").read_text()))


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
    said = capsys.readouterr().out
    assert f"{len(kept)} of 18 answers are taken from" in said and "left by an earlier call of this command" in said
    assert f"18 answers ({len(kept)} of them from an earlier call), " in said
    assert "seconds" not in json.loads((output / "scores-final.json").read_text())
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
    rows = asked_of(questions)[:4]
    kept = KeptAnswers(path, questions)
    assert kept.found(rows) == {}
    kept.add((row, row.prediction(f"a {index}", 1, False)) for index, row in enumerate(rows))
    lines = path.read_bytes().splitlines()
    other = json.dumps({**json.loads(lines[2]), "reference": "changed"}).encode()
    path.write_bytes(b"\n".join([b"\xff[[", b"5", b"[" * 5000, lines[0], b"{}", lines[1][:-9], other, lines[3]]))
    assert {index: row["answer"] for index, row in kept.found(rows).items()} == {0: "a 0", 3: "a 3"}
    beside = tmp_path / ".answers-final-b-0123456789abcdef.jsonl"
    beside.write_text("")
    forget(tmp_path, ["final", "none"])
    assert list(tmp_path.iterdir()) == [beside], "those of another name stay"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full to stand for a full disk")
def test_a_full_disk_ends_no_evaluation(questions: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept = KeptAnswers(Path("/dev/full"), questions)
    row = asked_of(questions)[0]
    kept.add([(row, row.prediction("a", 1, False))])
    kept.add([(row, row.prediction("b", 1, False))])
    error = capsys.readouterr().err
    assert error.count("WARNING: answers are not kept as they come: /dev/full: the disk is full") == 1


def test_ctrl_c_says_how_to_go_on(tmp_path: Path, questions: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = asked_of(questions)[:2]
    kept = KeptAnswers(tmp_path / "kept.jsonl", questions)
    with pytest.raises(KeyboardInterrupt), told(kept, rows):
        raise KeyboardInterrupt
    assert capsys.readouterr().err == "", "nothing was answered yet"
    kept.add([(rows[0], rows[0].prediction("a", 1, False))])
    with pytest.raises(KeyboardInterrupt), told(kept, rows):
        raise KeyboardInterrupt
    assert capsys.readouterr().err.startswith("1 of 2 answers are kept: give the same command again")
    kept.path.unlink()
    kept.path.mkdir()
    with pytest.raises(KeyboardInterrupt), told(kept, rows):
        raise KeyboardInterrupt
    with pytest.raises(UserError, match="what ended it"), told(kept, rows):
        raise UserError("what ended it")


def test_a_disk_that_fills_is_told_and_costs_no_answer_after_it(tmp_path: Path, questions: Path) -> None:
    """The write that fills it is a short one, which is no error."""
    rows = asked_of(questions)
    kept = KeptAnswers(tmp_path / "kept.jsonl", questions)

    def fill() -> None:
        kept.add([(rows[0], rows[0].prediction("a", 1, False))])
        for size in (kept.path.stat().st_size + 100, kept.path.stat().st_size + 100, resource.RLIM_INFINITY):
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
            kept.add((row, row.prediction("b", 1, False)) for row in rows[1:3])
        kept.add([(rows[3], rows[3].prediction("c", 1, False))])

    with (tmp_path / "said").open("w+") as said:
        assert warm.wait_for(warm.fork(fill, [said.fileno(), said.fileno()]), 60) == 0
        said.seek(0)
        assert said.read().count("WARNING: answers are not kept as they come") == 1
    assert [row["answer"] for row in kept.found(rows).values()] == ["a", "b", "b", "c"]


def test_what_was_asked_otherwise_is_asked_again(tmp_path: Path, questions: Path) -> None:
    """Under the same name and words: a picture that was exported anew, and `<image>` behind the question."""
    folder = tmp_path / "pictures"
    shutil.copytree(questions, folder)
    rows = asked_of(folder)[:6]
    kept = KeptAnswers(tmp_path / "kept.jsonl", folder)
    made = [row.prediction("a", 1, False) for row in rows]
    kept.add(zip(rows, made, strict=True))
    assert list(kept.found(rows).values()) == made, "nothing but the predictions"
    shutil.copy(folder / "5.png", folder / "1.png")
    rows[0].record["conversations"][0]["value"] = f"{rows[0].text}\n<image>"
    assert sorted(kept.found(rows)) == [1, 4, 5], "what is asked about the other turn's picture stays"


def _mend_manifest(model: Path) -> None:
    write_json(model / "llava_finetune.json", {"conversation": "llama_2"})


CHANGES: dict[str, Callable[[Path], Any]] = {
    "manifest": _mend_manifest,
    "template": lambda model: (model / "chat_template.jinja").write_text("{{ messages }}"),
    "tokenizer": lambda model: (model / "added_tokens.json").write_text("{}"),
    "config": lambda model: write_json(
        model / "config.json", json.loads((model / "config.json").read_text()) | {"a": 1}
    ),
    "tower": lambda model: write_json(model / "tower" / "preprocessor_config.json", {"do_rescale": True}),
    "generation": lambda model: write_json(model / "generation_config.json", {"repetition_penalty": 1.5}),
}


def test_what_the_model_answers_with_is_a_part_of_the_name(tiny: Path, tmp_path: Path) -> None:
    model, adapter = tmp_path / "model", tmp_path / "adapter"
    shutil.copytree(tiny, model)
    config = json.loads((model / "config.json").read_text())
    shutil.copytree(config["mm_vision_tower"], model / "tower")
    write_json(model / "config.json", config | {"mm_vision_tower": str(model / "tower")})
    adapter.mkdir()
    write_json(adapter / "llava_finetune.json", {"base": str(model)})
    write_json(adapter / "adapter_config.json", {"peft_type": "LORA", "r": 8, "lora_alpha": 16})
    names = ("model", "base", "dtype", "device", "bits", "image_folder", "blind", "max_new_tokens")

    def key(folder: Path) -> Path:
        given = argparse.Namespace(**{**dict.fromkeys(names), "model": str(folder)})
        return place_of(tmp_path, "final", made_with(given))

    for name, change in CHANGES.items():
        before = key(model), key(adapter)
        write_json(model / "scores-final.json", {"changed": name})
        assert (key(model), key(adapter)) == before, "results lie in the same folder"
        change(model)
        assert key(model) != before[0] and key(adapter) != before[1], name
    usual = key(adapter)
    write_json(adapter / "adapter_config.json", {"peft_type": "LORA", "r": 8, "lora_alpha": 32})
    assert key(adapter) != usual


def test_a_hub_model_has_its_key_before_its_weights_are_fetched(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached = tmp_path / "snapshots" / "c0ffee"
    cached.mkdir(parents=True)
    shutil.copy(tiny / "config.json", cached)
    for module in (kept_answers, "llava_finetune.saved.folders"):
        monkeypatch.setattr(f"{getattr(module, '__name__', module)}.find_file", lambda _, name: str(cached / name))
    names = ("base", "dtype", "device", "bits", "image_folder", "blind", "max_new_tokens")
    given = argparse.Namespace(**dict.fromkeys(names), model="nobody/model")
    first = made_with(given)
    (cached / "model.safetensors").write_bytes(b"fetched")
    assert made_with(given) == first and "c0ffee" in first["states"]["nobody/model"]


def test_a_comparison_that_is_ended_in_its_second_half_keeps_its_first(
    tiny: Path, questions: Path, tmp_path: Path, asked: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out"
    words = ["--model", str(tiny), "--images", str(questions), "--output", str(output), "--dtype", "fp32"]
    words += ["--max_new_tokens", "2", "--data", str(questions / "records.json"), "--before", str(tiny)]
    usual = generate_answers._LlavaAsker.generate

    def ended(self: Any, indices: Sequence[int], max_new_tokens: int) -> list[list[int]]:
        if len(asked) >= 18:
            raise KeyboardInterrupt
        return usual(self, indices, max_new_tokens)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(generate_answers._LlavaAsker, "generate", ended)
        main(words)
    assert (output / "scores-baseline.json").is_file() and len(asked) == 18
    assert main(words) == 0
    assert len(asked) == 36, "the baseline's are not asked again"
    assert not [path.name for path in output.iterdir() if path.name.startswith(".")], "nothing is left of both"


class Here:
    """A process of `spread` that has run to its end, in this one, when it is made."""

    def __init__(self, command: Sequence[str], **_: Any) -> None:
        try:
            self.code = main(command[4:])
        except UserError:
            self.code = 1

    def poll(self) -> int:
        return self.code

    def kill(self) -> None:
        """It has ended."""

    def wait(self) -> None:
        """It has ended."""


def test_several_processes_go_on_with_what_they_were_ended_in(
    tiny: Path, questions: Path, tmp_path: Path, asked: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With exchanged pictures: each question's is that of the whole set, whoever answers it."""
    monkeypatch.setattr(subprocess, "Popen", Here)
    folder, output = tmp_path / "pictures", tmp_path / "out"
    shutil.copytree(questions, folder)
    words = ["--model", str(tiny), "--images", str(folder), "--output", str(output), "--dtype", "fp32"]
    words += ["--max_new_tokens", "3", "--batch_size", "4", "--data", str(folder / "records.json")]
    words += ["--blind", "shuffled"]
    assert main([*words, "--name", "usual"]) == 0
    asked.clear()
    whole = (folder / "2.png").read_bytes()
    (folder / "2.png").write_bytes(whole[:40])
    with pytest.raises(UserError, match=r"process . of 2 failed; .* of 18 answers are kept: give the same command"):
        main([*words, "--num_processes", "2"])
    assert 0 < len(asked) < 18
    (folder / "2.png").write_bytes(whole)
    assert main([*words, "--num_processes", "2"]) == 0
    assert len(asked) == 18, "each once"
    assert (output / "predictions-shuffled.jsonl").read_bytes() == (output / "predictions-usual.jsonl").read_bytes()
    assert not [path.name for path in output.iterdir() if path.name.startswith(".")], "nothing is left"
