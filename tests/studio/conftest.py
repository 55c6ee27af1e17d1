"""A workspace with coloured pictures and a table, and the studio's server on it."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from PIL import Image

from llava_finetune.studio.app import build_app
from llava_finetune.studio.shared import Studio
from llava_finetune.studio.workspace import Workspace
from tests.fixtures.adapters_and_servers import serving

COLOURS = {"red": (220, 30, 30), "green": (30, 160, 30), "blue": (40, 60, 220), "yellow": (240, 220, 60)}
HEADERS = {"x-studio": "1"}


def fill(folder: Path, count: int = 20, unanswered: int = 2) -> Path:
    """Pictures in photos/ and a table of answers, the last ones left open."""
    (folder / "photos").mkdir(parents=True)
    rows = []
    for index in range(count):
        name = list(COLOURS)[index % len(COLOURS)]
        red, green, blue = COLOURS[name]
        picture = Image.new("RGB", (60 + index, 48), (red, (green + index) % 256, blue))
        picture.putpixel((index % 48, 5), (255, 255, 255))
        picture.save(folder / "photos" / f"{index:03d}.png")
        rows.append([f"{index:03d}.png", name if index < count - unanswered else ""])
    with (folder / "colours.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["photo", "colour of it"], *rows])
    return folder


def taken(folder: Path) -> dict[str, Any]:
    """What the page sends to take the table of `fill`."""
    roles = {"image": "photo", "question": None, "answer": "colour of it"}
    return {"name": "colours.csv", "images": "photos", "roles": roles, "question": "Which colour?"}


class Page:
    """A caller as the page is one."""

    def __init__(self, url: str, studio: Studio) -> None:
        self.url, self.studio = url, studio
        self.folder = studio.space.folder

    def post(self, name: str, value: object = None, **more: Any) -> httpx.Response:
        headers = {**HEADERS, **more.pop("headers", {})}
        return httpx.post(f"{self.url}/api/{name}", json=value or {}, headers=headers, timeout=60, **more)

    def ask(self, name: str, /, **value: Any) -> dict[str, Any]:
        answer = self.post(name, value)
        assert answer.status_code == 200, answer.text
        return dict(answer.json())


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Page]:
    """The studio on a fresh workspace with pictures and a table in it."""
    studio = Studio(Workspace.open(fill(tmp_path / "colours")))
    shared = SimpleNamespace(engines={}, under_way=0)
    with serving(shared, build_app(studio)) as running:
        yield Page(running.url, studio)


@pytest.fixture
def filled(page: Page) -> Page:
    """The same, its table taken into the grid."""
    page.ask("take", **taken(page.folder))
    return page
