"""A data set of the hub comes into the workspace by a job of its own; the hub is one on this machine."""

from __future__ import annotations

import io
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from llava_finetune.studio import jobs
from tests.data_prep.hub import Hub
from tests.studio.conftest import Page
from tests.studio.test_data import wait


def picture(red: int) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (32, 24), (red, 60, 90)).save(out, "PNG")
    return out.getvalue()


def data_set(folder: Path) -> None:
    """Four pictures in a parquet file whose column of answers has a name that nobody guesses."""
    (folder / "data").mkdir(parents=True)
    rows = [
        {"image": {"bytes": picture(60 * n), "path": f"{n}.png"}, "question": "How red?", "redness": str(n)}
        for n in range(4)
    ]
    pq.write_table(pa.Table.from_pylist(rows), folder / "data/train-00000-of-00001.parquet")


def test_a_data_set_of_the_hub_is_fetched_and_its_columns_are_named(
    page: Page, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data_set(tmp_path / "hub")
    with Hub(tmp_path / "hub", tmp_path / "cache") as hub:
        for name, value in hub.environment.items():
            monkeypatch.setenv(name, value)
        asked = {"name": "https://huggingface.co/datasets/owner/name", "limit": 3}
        job = jobs.find(page.studio.space, page.ask("hub", **asked)["job"])
        assert wait(job) == "failed" and "redness" in jobs.reason(job), jobs.log_tail(job)
        begun = page.ask("hub", **asked, columns={"answer": "redness"})
        job = jobs.find(page.studio.space, begun["job"])
        assert wait(job) == "done", jobs.log_tail(job)
    assert (begun["records"], begun["images"]) == ("hub-owner-name/records.json", "hub-owner-name/images")
    seen = page.ask("look", name=begun["records"], images=begun["images"])
    assert (seen["kind"], seen["seen"], seen["found"]) == ("records", 3, 3)
    page.ask("take", name=begun["records"], images=begun["images"])
    assert [row["answer"] for row in page.ask("rows")["rows"]] == ["0", "1", "2"]


def test_pictures_of_the_hub_come_to_those_that_are_there(filled: Page) -> None:
    asked = {"name": "owner/name", "split": "validation", "columns": {"answer": "the answer; --output x"}}
    seen = filled.ask("hub", **asked, dry=True)
    assert seen["command"].splitlines()[1] == (
        "python -m data_prep hf owner/name --output hub-owner-name/records.json --images photos --limit 1000 "
        "--check none --allow-drops 1 --split validation '--answer-column=the answer; --output x'"
    )


@pytest.mark.parametrize(
    "asked",
    [
        {"name": "name"},
        {"name": "../name"},
        {"name": "-o/name"},
        {"name": "a/b/c"},
        {"name": "a/.."},
        {"name": "a/b", "split": "--output"},
        {"name": "a/b", "config": "x y"},
        {"name": "a/b", "limit": 0},
        {"name": "a/b", "columns": {"output": "x"}},
    ],
)
def test_what_is_no_data_set_is_refused(page: Page, asked: dict[str, object]) -> None:
    assert page.post("hub", asked).status_code == 400
    assert not (page.folder / "jobs").exists() or not list((page.folder / "jobs").iterdir())
