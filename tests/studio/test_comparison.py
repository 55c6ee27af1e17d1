"""Several trainings side by side: what each came to, curves in one picture, and the settings that differ."""

from __future__ import annotations

import json
from pathlib import Path

from llava_finetune.studio import jobs
from llava_finetune.studio.comparison import MOST
from llava_finetune.studio.jobs import Step
from tests.fixtures import run_maker
from tests.studio.conftest import Page


def made(page: Page, name: str, skill: float = 0.97, **arguments: object) -> Path:
    """A finished training of this name, its settings those of `run_maker` and these."""
    folder = run_maker.make_run(page.folder / "runs" / name, skill=skill)
    manifest = json.loads((folder / "run.json").read_text())
    batch = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}
    own = {"output_dir": f"runs/{name}", "lora_enable": True, "bits": 16, "model_name_or_path": "tiny"}
    manifest["arguments"] |= {**own, **batch, **arguments}
    (folder / "run.json").write_text(json.dumps(manifest))
    return folder


def test_trainings_are_compared_by_what_they_answer_and_by_the_settings_that_differ(page: Page) -> None:
    made(page, "first")
    folder = made(page, "larger-rate", skill=0.2, learning_rate=0.001, lora_dropout=0.1, weight_decay=0.1)
    manifest = json.loads((folder / "run.json").read_text())
    manifest["command"] += ["--weight_decay=0.1", "--note", "lora_dropout"]
    (folder / "run.json").write_text(json.dumps(manifest))
    seen = page.ask("compare")
    assert seen["verdict"]["best"] == "first" and seen["verdict"]["second"] == "larger-rate"
    assert seen["verdict"]["is_told_apart"] and seen["verdict"]["count"] == 72
    assert seen["charts"].count("<figure") == 3 and all(seen["charts"].count(f'key {one}"') == 3 for one in "ab")
    names = [run["name"] for run in seen["runs"]]
    rows = {row["name"]: (dict(zip(names, row["values"], strict=True)), row["differs"]) for row in seen["settings"]}
    assert rows["learning_rate"] == ({"first": "0.0002", "larger-rate": "0.001"}, True)
    assert rows["lora_dropout"] == ({"first": "", "larger-rate": "0.1"}, True)
    given = {row["name"] for row in seen["settings"] if row["is_given"]}
    assert {"learning_rate", "weight_decay"} <= given and "lora_dropout" not in given, "its command does not name it"
    assert rows["recipe"] == ({"first": "lora", "larger-rate": "lora"}, False)
    assert "output_dir" not in rows
    assert all(60 * 4 / 9 < run["trained"] < 60 * 4 / 7 for run in seen["runs"]), "4 records a step, 7 to 9 a second"
    alone = page.ask("compare", names=["first", "nothing"])
    assert [run["name"] for run in alone["runs"]] == ["first"] and alone["verdict"] is None


def test_chance_is_told_from_a_better_training(page: Page) -> None:
    made(page, "one")
    made(page, "two", skill=0.96)
    assert page.ask("compare")["verdict"]["is_told_apart"] is False


def test_a_training_that_waits_is_compared_by_what_it_was_asked_for(page: Page) -> None:
    made(page, "whole")
    about = {"name": "next", "model": "tiny", "recipe": "qlora", "flags": {"--learning_rate": "1e-3"}}
    job = jobs.start(page.studio.space, "train", "next", [Step(("python", "-c", "pass"))], queued=True, **about)
    seen = page.ask("compare")
    values = {row["name"]: row["values"] for row in seen["settings"]}
    assert [run["name"] for run in seen["runs"]] == ["next", "whole"] and seen["runs"][0]["loss"] is None
    assert values["recipe"] == ["qlora", "lora"] and values["model_name_or_path"] == ["tiny", "tiny"]
    jobs.stop(job, now=True)


def test_no_more_trainings_than_there_are_colours_stand_in_one_picture(page: Page) -> None:
    for number in range(MOST + 2):
        (page.folder / f"runs/run-{number}").mkdir(parents=True)
    seen = page.ask("compare")
    assert len(seen["runs"]) == MOST and len(seen["known"]) == MOST + 2
    assert len({run["colour"] for run in seen["runs"]}) == MOST
