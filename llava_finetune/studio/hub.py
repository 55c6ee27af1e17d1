"""A data set of the Hugging Face hub into the workspace: its records in a folder of its own, which the page then takes.

fetch(space, HubAsked(name="owner/pets", limit=500))[0].text
# python -m data_prep hf owner/pets --output hub-owner-pets/records.json --images hub-owner-pets/images --limit 500 ...
"""

from __future__ import annotations

import re

from pydantic import BaseModel, Field

from llava_finetune.studio.buttons import images_word
from llava_finetune.studio.jobs import Step
from llava_finetune.studio.refusals import Refused
from llava_finetune.studio.workspace import Workspace

COLUMNS = ("image", "question", "answer", "messages", "caption")
NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
PART = re.compile(r"[A-Za-z0-9][\w.-]*")


class HubAsked(BaseModel):
    """A data set, how much of it, and which of its columns is which where that cannot be guessed."""

    name: str = Field(max_length=200)
    split: str = Field("", max_length=100)
    config: str = Field("", max_length=100)
    limit: int = Field(1000, ge=1, le=200_000)
    columns: dict[str, str] = {}
    dry: bool = False


def fetch(space: Workspace, asked: HubAsked) -> list[Step]:
    """The command that fetches it. Raises Refused for what is no name of a data set, of a split or of a column."""
    name = name_of(asked.name)
    words = ["--limit", str(asked.limit), "--check", "none", "--allow-drops", "1"]
    for flag, value in (("split", asked.split.strip()), ("config", asked.config.strip())):
        if value and not PART.fullmatch(value):
            raise Refused("no_part", name=value)
        words += [f"--{flag}", value] if value else []
    for role, column in asked.columns.items():
        if role not in COLUMNS or "\0" in column or "\n" in column:
            raise Refused("no_column", name=column)
        words += [f"--{role}-column={column.strip()}"] if column.strip() else []
    target = ("--output", f"{folder_of(name)}/records.json", "--images", images_word(images_of(space, name)))
    return [Step(("python", "-m", "data_prep", "hf", name, *target, *words))]


def name_of(text: str) -> str:
    """OWNER/NAME of what was typed, which may be the address of its page. Raises Refused for anything else."""
    name = text.strip().removeprefix("https://huggingface.co/datasets/").strip("/")
    if not NAME.fullmatch(name) or ".." in name:
        raise Refused("no_data_set", name=text)
    return name


def folder_of(name: str) -> str:
    """Where a data set's records come to lie in the workspace."""
    return f"hub-{name.replace('/', '-')}"


def images_of(space: Workspace, name: str) -> str:
    """Where its pictures come to lie: with those that are there, since the rows of a workspace name one folder."""
    images = space.settings().get("images")
    return images if isinstance(images, str) else f"{folder_of(name)}/images"
