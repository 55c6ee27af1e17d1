"""What a resume finds, compares and takes back; how checkpoints and results get their names and make way."""

from __future__ import annotations

import json
from enum import Enum
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from llava_finetune.errors import UserError
from llava_finetune.saved import checkpoints
from llava_finetune.training import resume

SETTINGS = {"learning_rate": 0.002, "seed": 7, "data_sha256": "a" * 64, "ranks": 1, "zero_stage": 0}


def checkpoint(output: Path, step: int, text: str = "weights") -> Path:
    """A sealed checkpoint of a state and one file."""
    folder = output / checkpoints.STAGING / f"checkpoint-{step}"
    folder.mkdir(parents=True)
    (folder / "trainer_state.json").write_text(json.dumps({"global_step": step, "max_steps": 9}))
    (folder / "model.bin").write_text(text)
    (folder / "global_step2").mkdir()
    (folder / "global_step2" / "part.bin").write_text("part")
    checkpoints.seal(folder, {"step": step, "settings": SETTINGS})
    return checkpoints.publish(folder, output)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


@pytest.mark.parametrize(("name", "step"), [("checkpoint-20", 20), ("checkpoint-x", -1), ("old-checkpoint-2", -1)])
def test_a_step_is_told_by_the_whole_name(name: str, step: int) -> None:
    assert checkpoints.step_of(Path(name)) == step


def test_a_published_checkpoint_has_its_name_its_facts_and_replaces_an_older_one(tmp_path: Path) -> None:
    checkpoint(tmp_path, 2, "old")
    folder = checkpoint(tmp_path, 2, "new")
    assert folder == tmp_path / "checkpoint-2" and names(tmp_path) == ["checkpoint-2"]
    assert (folder / "model.bin").read_text() == "new"
    assert not (tmp_path / checkpoints.DELETING).exists()
    seal = checkpoints.read_seal(folder)
    assert (seal["step"], seal["settings"]) == (2, SETTINGS)
    assert seal["files"].keys() == {"trainer_state.json", "model.bin", "global_step2/part.bin"}
    assert seal["files"]["model.bin"]["bytes"] == 3
    assert checkpoints.read_seal(tmp_path) == {}


def test_checkpoints_come_by_their_steps_and_only_whole_ones(tmp_path: Path) -> None:
    for step in (10, 2, 0, 4):
        checkpoint(tmp_path, step)
    (tmp_path / "checkpoint-4" / "model.bin").unlink()
    (tmp_path / "checkpoint-x").mkdir()
    found = [path.name for path in checkpoints.checkpoints(tmp_path)]
    assert found == ["checkpoint-0", "checkpoint-2", "checkpoint-10"]
    assert checkpoints.fault_of(tmp_path / "checkpoint-4") == "model.bin is missing"
    assert "no checkpoint.json" in str(checkpoints.fault_of(tmp_path / "checkpoint-x"))


@pytest.mark.parametrize("name", ["../model.bin", "/etc/hostname", "a\0b", "a/../../b"])
def test_a_seal_names_nothing_outside_of_its_folder(name: str, tmp_path: Path) -> None:
    folder = checkpoint(tmp_path, 2)
    seal = json.loads((folder / checkpoints.SEAL).read_text())
    (folder / checkpoints.SEAL).write_text(json.dumps({**seal, "files": {name: 7}}))
    assert "which is not inside of it" in str(checkpoints.fault_of(folder))


def test_a_seal_of_an_older_run_tells_sizes_alone(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path, 2)
    seal = json.loads((folder / checkpoints.SEAL).read_text())
    (folder / checkpoints.SEAL).write_text(json.dumps({**seal, "files": {"model.bin": 7}}))
    assert checkpoints.fault_of(folder, contents=True) is None
    (folder / "model.bin").write_text("less")
    assert checkpoints.fault_of(folder) == "model.bin has 4 bytes instead of 7; it was cut off or changed"


def test_a_folder_that_is_used_must_be_whole_if_it_is_sealed(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path, 2)
    checkpoints.require_whole(folder)
    checkpoints.require_whole(tmp_path)
    (folder / "model.bin").unlink()
    with pytest.raises(UserError, match=r"checkpoint-2: model\.bin is missing; use another checkpoint"):
        checkpoints.require_whole(folder)


@pytest.mark.parametrize(
    ("limit", "best", "dropped"),
    [(None, None, []), (0, None, []), (-1, None, []), (1, None, [2, 4, 6]), (2, None, [2, 4]), (2, 2, [4]), (9, 2, [])],
)
def test_old_checkpoints_make_way_but_for_the_best_and_the_newest(
    limit: int | None, best: int | None, dropped: list[int], tmp_path: Path
) -> None:
    for step in (2, 4, 6, 8):
        checkpoint(tmp_path, step)
    gone = checkpoints.rotate(tmp_path, limit, best)
    assert [checkpoints.step_of(path) for path in gone] == dropped
    assert {checkpoints.step_of(tmp_path / name) for name in names(tmp_path)} == {2, 4, 6, 8} - set(dropped)
    assert not (tmp_path / checkpoints.DELETING).exists()


def test_what_a_kill_left_is_swept(tmp_path: Path) -> None:
    for name in (checkpoints.STAGING, checkpoints.DELETING):
        (tmp_path / name / "checkpoint-2").mkdir(parents=True)
    checkpoint(tmp_path, 4)
    checkpoints.sweep(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-4"]


def test_a_result_is_moved_with_what_makes_it_loadable_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output, staging = tmp_path / "run", tmp_path / "run" / ".result"
    staging.mkdir(parents=True)
    for name in ("zz.bin", "config.json", "adapter_config.json", "a.bin"):
        (staging / name).write_text("new")
    (staging / "folder").mkdir()
    for name in ("mm_projector.bin", "config.json", "log.jsonl"):
        (output / name).write_text("old")
    moved: list[tuple[str, bool]] = []
    usual = Path.replace

    def replace(self: Path, target: Path) -> Path:
        moved.append((self.name, (output / "config.json").exists()))
        return usual(self, target)

    monkeypatch.setattr(Path, "replace", replace)
    checkpoints.publish_result(staging, output)
    assert [name for name, _ in moved] == ["a.bin", "zz.bin", "adapter_config.json", "config.json"]
    assert not any(there for _, there in moved), "an old config would make a half moved result loadable"
    assert names(output) == ["a.bin", "adapter_config.json", "config.json", "log.jsonl", "zz.bin"]
    assert (output / "config.json").read_text() == "new" and (output / "log.jsonl").read_text() == "old"
    assert not staging.exists()


def test_a_result_is_copied_without_what_only_a_resume_reads(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path, 2)
    for name in ("optimizer.pt", "scheduler.pt", "rng_state_1.pth", "position_0.pth", "latest", "config.json"):
        (folder / name).write_text("x")
    for _ in range(2):
        checkpoints.copy_result(folder, tmp_path / "new" / "result")
    assert names(tmp_path / "new" / "result") == ["config.json", "model.bin"]


def test_what_is_gone_on_from(tmp_path: Path) -> None:
    said: list[str] = []
    assert resume.find(tmp_path, "auto", said.append) is None and said == []
    (tmp_path / "run.json").write_text("{}")
    assert resume.find(tmp_path, "auto", said.append) is None
    assert said == [f"{tmp_path} has no whole checkpoint: the run starts from the beginning"]
    folders = [checkpoint(tmp_path, step) for step in (2, 10)]
    assert resume.find(tmp_path, "none") is None
    assert resume.find(tmp_path, "auto", said.append) == folders[1] and len(said) == 1
    assert resume.find(tmp_path, str(folders[0])) == folders[0]
    with pytest.raises(UserError, match=r"--resume .*checkpoint-3: no such folder; give a whole checkpoint-N folder"):
        resume.find(tmp_path, str(tmp_path / "checkpoint-3"))
    (folders[1] / "checkpoint.json").unlink()
    assert resume.find(tmp_path, "auto", said.append) == folders[0], "never sealed: not damaged, passed over"
    assert said[-1].startswith("WARNING: passed over checkpoint-10: no checkpoint.json")
    (folders[0] / "checkpoint.json").unlink()
    assert resume.find(tmp_path, "auto", said.append) is None, "both may be another program's"
    (folders[0] / "llava_finetune.json").write_text("{}")
    with pytest.raises(
        UserError, match=r"no whole checkpoint is left to go on from: checkpoint-2: no checkpoint\.json"
    ):
        resume.find(tmp_path, "auto", said.append)


@pytest.mark.parametrize("text", ["[]", "{}", '{"global_step": "2"}', "[" * 9999, ""])
def test_a_state_of_another_kind_is_told_though_its_seal_holds(text: str, tmp_path: Path) -> None:
    folder = checkpoint(tmp_path, 2)
    (folder / "trainer_state.json").write_text(text)
    (folder / checkpoints.SEAL).unlink()
    checkpoints.seal(folder, {"step": 2, "settings": SETTINGS})
    with pytest.raises(
        UserError, match=r"no whole checkpoint is left to go on from: checkpoint-2: .*trainer_state\.json"
    ):
        resume.find(tmp_path, "auto", lambda _: None)


def test_settings_that_differ_are_told_once_each_and_refused_unless_allowed(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path, 2)
    said: list[str] = []
    resume.refuse_differences(folder, {**SETTINGS, "new_flag": 5}, False, said.append)
    now = {**SETTINGS, "learning_rate": 0.001, "data_sha256": "b" * 64}
    lines = ["learning_rate: 0.002 then, 0.001 now", f"data_sha256: {'a' * 12}... then, {'b' * 12}... now"]
    assert resume.differences(SETTINGS, now) == lines
    assert resume.differences({"base_sha256": None}, {"base_sha256": "c" * 64}) == [
        f"base_sha256: None then, {'c' * 12}... now"
    ]
    with pytest.raises(UserError, match=r"trained with other settings:\n  learning_rate.*\n  data_sha256.*\nThe rest"):
        resume.refuse_differences(folder, now, False, said.append)
    assert said == []
    resume.refuse_differences(folder, now, True, said.append)
    assert len(said) == 1 and said[0].endswith("going on all the same (--resume_changed True)")


def test_parts_for_other_ranks_are_refused_though_other_settings_are_allowed(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path, 2)
    said: list[str] = []
    with pytest.raises(UserError, match=r"written by 1 rank\(s\) without ZeRO, and this run has 2 under ZeRO-2"):
        resume.refuse_differences(folder, {**SETTINGS, "ranks": 2, "zero_stage": 2}, True, said.append)
    assert said == []


@pytest.mark.parametrize(("tower", "kept"), [("folder", "f" * 64), ("some/tower", "some/tower"), (None, None)])
def test_a_tower_is_known_by_its_hash_else_by_its_name(
    tower: str | None, kept: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resume, "weights_sha256", lambda path: "f" * 64 if path.name == "folder" else None)
    (tmp_path / "train.json").write_text("[]")
    arguments = SimpleNamespace(
        model=SimpleNamespace(**dict.fromkeys(resume.MODEL), vision_tower=tower, model_name_or_path="base"),
        data=SimpleNamespace(
            replay=None,
            independent_turns="False",
            image_aspect_ratio="pad",
            augment=None,
            data_path=str(tmp_path / "train.json"),
        ),
        training=SimpleNamespace(
            **dict.fromkeys(resume.TRAINING),
            per_device_train_batch_size=2,
            gradient_accumulation_steps=3,
            sharing=False,
            world_size=1,
        ),
        precision=SimpleNamespace(name="fp32"),
        zero_stage=0,
    )
    settings: dict[str, Any] = resume.settings_of(arguments)  # type: ignore[arg-type]
    assert settings["vision_tower_sha256"] == kept
    assert (settings["base_sha256"], settings["records_per_step"]) == ("base", 6)


def test_the_log_and_what_was_answered_later_are_taken_back_to_a_step(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"step": step, "loss": 1.0} for step in (1, 2, 3)]
    text = "".join(json.dumps(row) + "\n" for row in rows) + '{"step": 4, "lo'
    (tmp_path / "log.jsonl").write_text(text)
    later = ("predictions-eval-3.jsonl", "predictions-probe-10.jsonl", "scores-eval-3.json")
    kept = ("predictions-eval-2.jsonl", "scores-probe-1.json", "predictions-final.jsonl", "scores-final.json")
    for name in (*later, *kept):
        (tmp_path / name).write_text("")
    assert resume.rewind(tmp_path, 2) == 2
    assert [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()] == rows[:2]
    assert {path.name for path in tmp_path.iterdir()} == {"log.jsonl", *kept}
    assert resume.rewind(tmp_path, -1) == 2
    assert (tmp_path / "log.jsonl").read_text() == ""
    (tmp_path / "log.jsonl").unlink()
    assert resume.rewind(tmp_path, 2) == 0 and not (tmp_path / "log.jsonl").exists()


class Named(Enum):
    STEPS = "steps"


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        (3, 3),
        (0.5, 0.5),
        ("a", "a"),
        (True, True),
        (None, None),
        (Path("a"), "a"),
        (Named.STEPS, "steps"),
        ([1], "[1]"),
    ],
)
def test_a_setting_is_kept_as_a_seal_can_hold_it(value: object, kept: object) -> None:
    assert resume._plain(value) == kept and type(resume._plain(value)) is type(kept)
