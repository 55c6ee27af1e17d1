"""The prompts, in files that can be edited: one for each style of data, and the questions before descriptions.

Prompts.read(None).messages("detail", scene)     # [{"role": "system", ...}, {"role": "user", ...}]
"""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass
from pathlib import Path

from data_prep.errors import DataError
from data_prep.files import write_text
from data_prep.generate.scenes import Scene
from data_prep.records.json_text import decode_utf8

FOLDER = Path(__file__).resolve().parent / "prompts"
STYLES = ("conversation", "detail", "reasoning")
"""Conversations, detailed descriptions, complex reasoning: the three kinds of LLaVA-Instruct-158K."""

QUESTIONS = "detail_questions"


@dataclass(frozen=True)
class Prompts:
    """The system prompt of each style, and the phrasings that ask for a description."""

    systems: dict[str, str]
    questions: list[str]

    @classmethod
    def read(cls, folder: Path | None) -> Prompts:
        """Return the prompts of `folder` (None: ours); raise DataError for a file that is missing or empty."""
        place = folder or FOLDER
        systems = {style: _text(place / f"{style}.txt") for style in STYLES}
        questions = [line.strip() for line in _text(place / f"{QUESTIONS}.txt").splitlines() if line.strip()]
        return cls(systems, questions)

    def messages(self, style: str, scene: Scene) -> list[dict[str, str]]:
        """Return the chat that asks for `style` about `scene`."""
        return [{"role": "system", "content": self.systems[style]}, {"role": "user", "content": scene.as_text()}]

    def question(self, image: str, seed: int) -> str:
        """Return the phrasing that asks for the description of a picture, the same in every run."""
        return random.Random(f"{seed} {image}").choice(self.questions)

    def digests(self) -> dict[str, str]:
        """Return the SHA-256 of each text, for the meta file."""
        texts = {**self.systems, QUESTIONS: "\n".join(self.questions)}
        return {name: hashlib.sha256(text.encode()).hexdigest() for name, text in texts.items()}


def _text(path: Path) -> str:
    if not path.is_file():
        raise DataError(path, "no such prompt; --write-prompts FOLDER writes all of them, to be edited")
    text = decode_utf8(path.read_bytes(), path).removeprefix("\ufeff").strip()
    if not text:
        raise DataError(path, "an empty prompt; --write-prompts FOLDER writes all of them, to be edited")
    return text


def write_prompts(folder: Path) -> list[Path]:
    """Write our prompts to `folder` for editing; raise DataError rather than replace one that is there."""
    targets = [folder / f"{name}.txt" for name in (*STYLES, QUESTIONS)]
    there = next((path for path in targets if path.exists()), None)
    if there:
        raise DataError(there, "is there already and may be edited; choose another folder")
    for path in targets:
        write_text(path, (FOLDER / path.name).read_text(encoding="utf-8"))
    return targets
