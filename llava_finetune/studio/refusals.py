"""What the studio says in words of its own: a text of the page by its key, in the language that is asked for.

    raise Refused("no_run", name="mine")        # "there is no run mine in this workspace", of texts/en.json
    said("chart.score", "de")                   # a title that is drawn here, of texts/de.json

A terminal and a log have the English text of a refusal; the page says it in its own language, by the key.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping
from pathlib import Path

from llava_finetune.errors import UserError

TEXTS = Path(__file__).parent / "texts"
LANGUAGES = ("en", "de", "zh")
LONGEST = 200
"""Characters of a value that are shown."""


class Refused(UserError):
    """A refusal with the key of its text, `refused.` before it, and the values that stand in it."""

    def __init__(self, key: str, **values: str | int) -> None:
        """Keep key and values for the page; the message is English."""
        self.key = f"refused.{key}"
        self.values = {name: value[:LONGEST] if isinstance(value, str) else value for name, value in values.items()}
        super().__init__(re.sub(r"\{(\w+)\}", lambda found: _shown(self.values[found[1]]), said(self.key)))


def said(key: str, language: str = "en") -> str:
    """A text of the page; the English one where the language is unknown, or has none for the key."""
    return _texts(language).get(key) or _texts("en")[key]


def _shown(value: str | int) -> str:
    return f"{value:,}" if isinstance(value, int) else value


@functools.cache
def _texts(language: str) -> Mapping[str, str]:
    return dict(json.loads((TEXTS / f"{language}.json").read_text(encoding="utf-8"))) if language in LANGUAGES else {}
