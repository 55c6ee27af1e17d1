"""Answers on the disk as they are made: what ends an evaluation costs the batch at hand, and the same command goes on.

They lie beside the results, in a file that is named after what they were made with, and are gone when the results are
written. Several processes append to it at a time; a line that is cut off is a question that is asked again.

    kept = KeptAnswers(place_of(Path("runs/mine"), "final", {"max_new_tokens": 64}))
    found = kept.found(questions)                    # predictions by the question's index
    kept.add(predictions)
"""

from __future__ import annotations

import argparse
import glob
import hashlib
import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from data_prep.errors import DataError
from data_prep.files import write_problem
from data_prep.records.json_text import parse_json, require_regular
from llava_finetune.errors import UserError
from llava_finetune.evaluation.scoring import is_prediction
from llava_finetune.saved.manifest import scored_hashes

PREFIX = ".answers-"


def place_of(folder: Path, name: str, made_with: Mapping[str, Any]) -> Path:
    """The file for answers of `--name NAME` that are made with these settings."""
    digest = hashlib.sha256(json.dumps(made_with, sort_keys=True, default=str).encode(errors="replace")).hexdigest()
    return folder / f"{PREFIX}{name}-{digest[:16]}.jsonl"


def made_with(arguments: argparse.Namespace, questions: Sequence[Any]) -> dict[str, Any]:
    """What an answer follows from beside its question: only under the same is a kept one taken."""
    names = ("model", "base", "dtype", "device", "bits", "image_folder", "blind", "max_new_tokens")
    swapped = [question.images for question in questions] if arguments.blind == "shuffled" else None
    hashes = scored_hashes(arguments.model, arguments.base)
    return {name: getattr(arguments, name) for name in names} | hashes | {"swapped": swapped}


def forget(folder: Path, name: str) -> None:
    """Remove what was kept for the results of this name, made with any settings: they are written now."""
    for path in folder.glob(f"{PREFIX}{glob.escape(name)}-{'[0-9a-f]' * 16}.jsonl"):
        path.unlink(missing_ok=True)


class KeptAnswers:
    """The answers in a file, and the way to add to them."""

    def __init__(self, path: Path) -> None:
        """Nothing is read or made yet."""
        self.path = path
        self.is_failing = False

    def found(self, questions: Sequence[Any]) -> dict[int, dict[str, Any]]:
        """The predictions that are kept, by the index of their question; a question that changed is not among them."""
        rows = {_key(row): row for row in self._rows()}
        keys = ((index, _key(question.prediction("", 0, False))) for index, question in enumerate(questions))
        return {index: rows[key] for index, key in keys if key in rows}

    def _rows(self) -> Iterator[dict[str, Any]]:
        if not os.path.lexists(self.path):
            return
        try:
            lines = require_regular(self.path, "file of kept answers").read_bytes().split(b"\n")
        except OSError as error:
            raise UserError(f"{self.path}: cannot be read ({error.strerror}); remove it to begin anew") from error
        for number, line in enumerate(lines, start=1):
            try:
                row = parse_json(line, self.path, number)
            except (ValueError, UserError):  # cut off when the machine went down
                continue
            if isinstance(row, dict) and is_prediction(row) and isinstance(row.get("num_tokens"), int):
                yield row

    def add(self, predictions: Iterable[Mapping[str, Any]]) -> None:
        """Append predictions in one write. A disk that is full costs them, and not the answers that are in memory."""
        text = "".join(json.dumps(dict(one)) + "\n" for one in predictions).encode()
        try:
            number = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
            try:
                if self.is_failing:  # what the full disk took of the last ones may end within a line
                    text = b"\n" + text
                whole = os.write(number, text) == len(text)
            finally:
                os.close(number)
            self.is_failing = not whole
        except OSError as error:
            if not self.is_failing:
                print(
                    f"WARNING: answers are not kept as they come: {DataError(self.path, write_problem(error))}",
                    file=sys.stderr,
                )
            self.is_failing = True


@contextmanager
def told(kept: KeptAnswers, questions: Sequence[Any]) -> Iterator[None]:
    """Say what is kept, and how to go on, when the block ends badly: in the error's own line where it has one."""
    try:
        yield
    except BaseException as error:
        number = len(kept.found(questions))
        if not number:
            raise
        words = (
            f"{number} of {len(questions)} answers are kept: give the same command again to go on with the others "
            f"(records of --data may be taken out or mended before; what is kept: {kept.path})"
        )
        if isinstance(error, UserError):
            again = UserError(f"{error}; {words}")
            again.exit_code = error.exit_code
            raise again from error
        print(words, file=sys.stderr)
        raise


def _key(row: Mapping[str, Any]) -> str:
    """What makes two predictions answers to the same question with the same reference."""
    return json.dumps({**row, "answer": "", "num_tokens": 0, "truncated": False}, sort_keys=True)
