"""What a training will do and why, before it is started; and how long, where one like it was measured here."""

from __future__ import annotations

import json

import pytest

from llava_finetune.launching.batches import choose
from llava_finetune.studio.pace import pace_of
from tests.studio.conftest import Page
from tests.studio.test_comparison import made


def ready(page: Page, records: int) -> None:
    """Split records, as many as this for training, and a model's folder."""
    page.studio.space.keep(images="photos")
    (page.folder / "data").mkdir(exist_ok=True)
    (page.folder / "tiny").mkdir(exist_ok=True)
    rows = [{"id": str(number), "conversations": []} for number in range(records)]
    (page.folder / "data/train.json").write_text(json.dumps(rows))
    (page.folder / "data/test.json").write_text(json.dumps(rows[:1]))


def ahead(page: Page, **asked: object) -> dict[str, object]:
    return dict(page.ask("train", name="next", model="tiny", dry=True, **asked)["forecast"])


@pytest.mark.parametrize("records", [1, 16, 40, 500, 20_000])
def test_the_steps_that_are_told_are_those_of_the_launcher(page: Page, records: int) -> None:
    ready(page, records)
    path = page.folder / "data/train.json"
    note = choose(mode="lora", flags=(), environment={}, world=1, on_gpu=False, data=str(path)).notes[1]
    pace = pace_of(path, "lora", {}, {"NUM_GPUS": "1"})
    assert f" = {pace.steps:,} steps of {pace.batch}" in note.replace("1 step ", "1 steps ")
    assert pace.is_little == (records < 30 * 128)


def test_little_data_is_told_with_its_reasons_and_time_only_where_it_was_measured(page: Page) -> None:
    ready(page, 40)
    seen = ahead(page)
    assert (seen["records"], seen["epochs"], seen["batch"], seen["steps"]) == (40, 3, 4, 30)
    assert (seen["warmup"], seen["rate"], seen["is_short"], seen["evaluations"]) == (1, "2e-4", False, 6)
    assert seen["seconds"] is None and seen["like"] is None

    made(page, "other-model", model_name_or_path="larger")
    made(page, "other-way", bits=4)
    assert ahead(page)["seconds"] is None
    made(page, "like-it")
    seen = ahead(page)
    assert seen["like"] == "like-it"
    assert 120 / 9 + 6 * 9.5 < float(str(seen["seconds"])) < 120 / 7 + 6 * 9.5, "7 to 9 records a second, 9.5 s a test"

    seen = ahead(page, flags={"--max_steps": "5", "--learning_rate": "1e-3"})
    assert (seen["steps"], seen["by_steps"], seen["is_short"], seen["rate"]) == (5, True, True, "1e-3")


def test_the_first_steps_of_a_run_predict_nothing(page: Page) -> None:
    ready(page, 40)
    folder = made(page, "just-begun")
    rows = (folder / "log.jsonl").read_text().splitlines(keepends=True)
    (folder / "log.jsonl").write_text("".join(rows[:3]))
    assert ahead(page)["seconds"] is None
