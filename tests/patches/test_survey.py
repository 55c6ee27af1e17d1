"""Many commits of a git directory are judged, and no change of a tree is taken for a mend."""

import ast
import io
import json
import os
import random
import re
import subprocess
import tokenize
from collections.abc import Mapping
from pathlib import Path

import pytest

from patches.cli import main
from patches.engine import Memory
from patches.history import History, SurveyError
from patches.series import load_series
from patches.survey import Finding, Verdict, findings, survey

MUTANTS = 40


def git(folder: Path, *arguments: str, day: int = 1) -> None:
    """Run git in a folder, as nobody in particular, on a day of May 2024."""
    names = {f"GIT_{role}_{part}": "x" for role in ("AUTHOR", "COMMITTER") for part in ("NAME", "EMAIL")}
    days = {f"GIT_{role}_DATE": f"2024-05-{day:02}T00:00:00Z" for role in ("AUTHOR", "COMMITTER")}
    environment = {**os.environ, **names, **days}
    subprocess.run(["git", *arguments], cwd=folder, check=True, capture_output=True, env=environment)


def commit(folder: Path, message: str, day: int) -> None:
    git(folder, "add", "--all")
    git(folder, "commit", "--message", message, day=day)


@pytest.fixture(scope="module")
def repository(pristine: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pin; a commit that renames a variable; one without evaluation; a fork in a folder; one without LLaVA."""
    folder = tmp_path_factory.mktemp("repository")
    git(folder, "init", "--initial-branch", "main")
    for name, content in pristine.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    commit(folder, "the pin", 1)
    builder = folder / "llava/model/builder.py"
    builder.write_text(re.sub(r"\bvision_tower\b", "tower", builder.read_text()))
    (folder / "llava/mine.py").write_text("x = 1\n")
    commit(folder, "renamed", 2)
    (folder / "llava/eval/model_qa.py").unlink()
    commit(folder, "no model_qa", 3)
    git(folder, "switch", "--create", "fork", "main~2")
    (folder / "LLaVA").mkdir()
    git(folder, "mv", "llava", "LLaVA/llava")
    commit(folder, "in a folder", 4)
    git(folder, "rm", "-r", "--quiet", "LLaVA")
    (folder / "other.py").write_text("x = 1\n")
    commit(folder, "something else", 5)
    return folder


def verdicts(found: tuple[Finding, ...]) -> dict[str, Verdict]:
    """What does not simply apply."""
    return {each.patch: each.verdict for each in found if each.verdict is not Verdict.APPLIES}


def test_each_commit_gets_a_verdict_for_each_patch(repository: Path) -> None:
    with History(repository) as history:
        commits, total = history.commits((), 50)
        judged = {each.commit.subject: each for each in survey(history, commits)}
    assert total == 5
    assert verdicts(judged["the pin"].findings) == verdicts(judged["in a folder"].findings) == {}
    assert verdicts(judged["renamed"].findings) == {"builder_tower": Verdict.DRIFTED}
    assert judged["renamed"].new_files == ("llava/mine.py",)
    gone = verdicts(judged["no model_qa"].findings)
    assert gone["eval_model_qa"] is Verdict.UNNEEDED
    assert gone["eval_model_qa_answer"] is Verdict.DRIFTED, "the class that it edits is in another file too"
    assert gone["eval_answer_ids"] is Verdict.DRIFTED, "four of its five files are there"
    assert judged["something else"].problem == "no package llava/ in it"
    assert all(len(each.findings) == len(load_series()) for each in judged.values() if not each.problem)
    assert all(each.reasons for commit in judged.values() for each in commit.findings if each.verdict != "applies")


def test_the_command_counts_tells_each_reason_once_and_says_what_it_left_out(
    repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["survey", str(repository), "main~2..main"]) == 0
    out = capsys.readouterr().out
    assert "builder_tower: drifted (2 commits, " in out
    assert out.count("builder_tower: drifted") == 1
    assert "1 Python files that no patch was written for are not judged: llava/mine.py" in out
    assert main(["survey", str(repository), "--limit", "1"]) == 1, "a commit that cannot be judged is told"
    out = capsys.readouterr().out
    assert out.startswith("1 of 5 commits, newest first; all: --limit 0\n")
    assert "not judged: no package llava/ in it" in out
    assert main(["survey", str(repository), "main", "--json"]) == 0
    row = json.loads(capsys.readouterr().out)
    assert row["patches"]["builder_tower"]["verdict"] == "drifted"
    assert row["patches"]["load_dtype"] == {"verdict": "applies", "reasons": []}


def test_the_table_is_for_one_commit(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["survey", str(repository), "main~1", "--markdown"]) == 0
    assert "| `builder_tower` | drifted | llava/model/builder.py, load_pretrained_model: " in capsys.readouterr().out
    assert main(["survey", str(repository), "--markdown"]) == 1
    assert "--markdown: expected one commit, found 5; name the one" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("no-such-branch",), "no-such-branch"),
        (("--limit", "-1"), "--limit -1: expected 0 (all) or more"),
    ],
)
def test_what_cannot_be_surveyed_is_named(
    repository: Path, arguments: tuple[str, ...], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["survey", str(repository), *arguments]) == 1
    error = capsys.readouterr().err
    assert words in error and "Traceback" not in error


def test_a_folder_that_is_no_git_directory_is_named(tmp_path: Path) -> None:
    with History(tmp_path / "nowhere") as history, pytest.raises(SurveyError, match="give a git directory"):
        history.commits((), 5)


def locals_of(content: bytes) -> set[str]:
    """The names that a file's functions assign or take."""
    found = set()
    for node in ast.walk(ast.parse(content)):
        if isinstance(node, ast.arg):
            found.add(node.arg)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
    return found - {"self"}


def renamed(content: bytes, name: str) -> bytes:
    """The file with one variable renamed throughout; attributes of its name stay."""
    tokens, before = [], ""
    for token in tokenize.tokenize(io.BytesIO(content).readline):
        text = f"{name}_too" if token.type == tokenize.NAME and token.string == name and before != "." else token.string
        tokens.append((token.type, text))
        before = token.string
    return tokenize.untokenize(tokens)  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def renamings(pristine: dict[str, bytes]) -> list[tuple[str, str, Mapping[str, bytes]]]:
    """A fixed sample: a file, a variable of it, and the pin with that variable renamed: no mend of anything."""
    touched = sorted({file for patch in load_series() for file in patch.files})
    places = [(file, name) for file in touched for name in sorted(locals_of(pristine[file]))]
    sample = random.Random(16).sample(places, MUTANTS)
    return [(file, name, {**pristine, file: renamed(pristine[file], name)}) for file, name in sample]


def test_a_renamed_variable_mends_nothing(renamings: list[tuple[str, str, Mapping[str, bytes]]]) -> None:
    """A patch still applies or has drifted: it is never called redundant or not needed."""
    memory, series, drifted = Memory(), load_series(), 0
    for file, name, files in renamings:
        found = verdicts(findings(series, files, memory))
        assert set(found.values()) <= {Verdict.DRIFTED}, f"{name} in {file}: {found}"
        drifted += bool(found)
    assert drifted > MUTANTS // 10, "the sample touches too little of what patches look at"


REWORDED = {
    "another spelling of the device": ("llava/eval/model_vqa.py", ".cuda()", ".to('cuda')", "eval_placement"),
    "a variable for the device": ("llava/eval/run_llava.py", ".cuda()", ".to(device='cuda')", "eval_run_llava"),
    "an unrelated compute dtype": (
        "llava/train/train.py",
        "torch.bfloat16 if training_args.bf16 else None",
        "dtype_of(training_args)",
        "load_dtype",
    ),
    "a part of what the patch does": ("llava/serve/model_worker.py", "timeout=15", "timeout=20", "serve_timeout"),
    "one thread of two": (
        "llava/serve/controller.py",
        "args=(self,)",
        "args=(self,), daemon=True",
        "serve_threads",
    ),
    "another word of the name": (
        "llava/serve/model_worker.py",
        "'llava' in self.model_name.lower()",
        "'llava' in self.model_name.lower() or 'vila' in self.model_name.lower()",
        "serve_worker_eyes",
    ),
    "a rank by another way": (
        "llava/train/train.py",
        "trainer.args.local_rank == -1",
        'getattr(trainer.args, "local_rank") == -1',
        "process_rank",
    ),
}
"""Trees of which a patch was once, or could be, called redundant or not needed although the cause is there."""


@pytest.mark.parametrize("case", REWORDED)
def test_a_cause_in_other_words_is_still_one(case: str, pristine: dict[str, bytes]) -> None:
    file, old, new, patch = REWORDED[case]
    text = pristine[file].decode()
    assert old in text
    found = findings(load_series(), {**pristine, file: text.replace(old, new).encode()}, Memory())
    assert {each.patch: each.verdict for each in found}[patch] in (Verdict.DRIFTED, Verdict.APPLIES)
    assert not any(each.verdict in (Verdict.THERE, Verdict.UNNEEDED) for each in found)


MENDED = {
    "no fp16 and no device": (
        "llava/eval/run_llava.py",
        {".cuda()": ".to(model.device)", "dtype=torch.float16": "dtype=model.dtype"},
        "eval_run_llava",
        Verdict.UNNEEDED,
    ),
    "no name of a tower": (
        "llava/model/multimodal_encoder/builder.py",
        {
            ' or vision_tower.startswith("openai") or vision_tower.startswith("laion")': "",
            "is_absolute_path_exists = ": "known = ",
        },
        "any_clip_tower",
        Verdict.UNNEEDED,
    ),
}


@pytest.mark.parametrize("case", MENDED)
def test_a_tree_that_is_mended_in_other_words_is_seen_as_such(case: str, pristine: dict[str, bytes]) -> None:
    file, words, patch, verdict = MENDED[case]
    text = pristine[file].decode()
    for old, new in words.items():
        assert old in text, old
        text = text.replace(old, new)
    found = findings(load_series(), {**pristine, file: text.encode()}, Memory())
    assert {each.patch: each.verdict for each in found}[patch] is verdict
