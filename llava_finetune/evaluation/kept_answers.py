"""Answers on the disk as they are made: what ends an evaluation costs the batch at hand, and the same command goes on.

They lie beside the results, in a file that is named after what they were made with, and are gone when the results are
written. Several processes append to it at a time; a line that is cut off is a question that is asked again.

    kept = KeptAnswers(place_of(Path("runs/mine"), "final", {"max_new_tokens": 64}), Path("pictures"))
    found = kept.found(questions)                    # predictions by the question's index
    kept.add([(question, prediction)])
"""

from __future__ import annotations

import argparse
import glob
import hashlib
import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from data_prep.errors import DataError
from data_prep.files import sha256_of, write_problem
from data_prep.records.json_text import parse_json, require_regular
from data_prep.records.picture import resolve_image
from llava_finetune.errors import UserError
from llava_finetune.evaluation.scoring import is_prediction
from llava_finetune.saved.checkpoints import require_whole
from llava_finetune.saved.folders import find_file, find_tower, read_json
from llava_finetune.saved.manifest import read_manifest, upstream_stamp, weights_sha256
from llava_finetune.saved.model_files import ADAPTER_CONFIG, MANIFEST, TOKENIZER_FILES
from llava_finetune.saved.model_names import require_there
from llava_finetune.saved.sound import require_sound

PREFIX = ".answers-"
CONFIGS = ("config.json", "generation_config.json", "preprocessor_config.json", "processor_config.json")
SMALL_FILES = (*CONFIGS, *TOKENIZER_FILES, MANIFEST, ADAPTER_CONFIG)
"""What an answer follows from beside the weights, with every *.jinja; scores and reports lie in the same folder."""
ASKED = "asked_sha256"
"""The key of a kept line for the prompt and the pictures' state: `question` and `image` are names alone."""


def place_of(folder: Path, name: str, made_with: Mapping[str, Any]) -> Path:
    """The file for answers of `--name NAME` that are made with these settings."""
    digest = hashlib.sha256(json.dumps(made_with, sort_keys=True, default=str).encode(errors="replace")).hexdigest()
    return folder / f"{PREFIX}{name}-{digest[:16]}.jsonl"


def made_with(arguments: argparse.Namespace) -> dict[str, Any]:
    """What an answer follows from beside its question: only under the same is a kept one taken."""
    names = ("model", "base", "dtype", "device", "bits", "image_folder", "blind", "max_new_tokens")
    require_there(arguments.model)
    require_whole(Path(arguments.model))
    folders = [str(arguments.model), arguments.base or read_manifest(arguments.model).get("base")]
    states = {folder: _state(folder) for folder in folders if folder}
    config = next((found for folder in states if states[folder] and (found := read_json(folder, "config.json"))), {})
    if tower := config.get("mm_vision_tower"):
        tower = find_tower(tower, folders)
        states[tower] = _state(tower)
    return {name: getattr(arguments, name) for name in names} | upstream_stamp() | {"states": states}


def _state(model: str) -> Any:
    """What tells a model's files from others: hashes by name; for a hub id its place in the cache, a commit's."""
    folder = Path(model)
    if not folder.is_dir():  # hashes of what is fetched later would be others in the next call
        with suppress(UserError, ValueError):  # the loader says what is wrong with it
            return find_file(model, "config.json")
        return None
    require_sound(folder)
    small = sorted({*(folder / name for name in SMALL_FILES), *folder.glob("*.jinja")})
    return [weights_sha256(folder), *((file.name, sha256_of(file)) for file in small if file.is_file())]


def forget(folder: Path, names: Iterable[str]) -> None:
    """Remove what was kept for the results of these names, made with any settings: they are written now."""
    for name in names:
        for path in folder.glob(f"{PREFIX}{glob.escape(name)}-{'[0-9a-f]' * 16}.jsonl"):
            path.unlink(missing_ok=True)


class KeptAnswers:
    """The answers in a file, and the way to add to them."""

    def __init__(self, path: Path, image_folder: Path | None) -> None:
        """Nothing is read or made yet."""
        self.path, self.image_folder = path, image_folder
        self.is_torn = self.is_told = False

    def found(self, questions: Sequence[Any]) -> dict[int, dict[str, Any]]:
        """The predictions that are kept, by the index of their question; what changed is not among them: the
        question, its reference, the size or time of a picture."""
        rows = {_key(row): row for row in self._rows()}
        keys = (
            (at, _key(self._line(question, question.prediction("", 0, False)))) for at, question in enumerate(questions)
        )
        return {at: {name: rows[key][name] for name in rows[key] if name != ASKED} for at, key in keys if key in rows}

    def _line(self, question: Any, prediction: Mapping[str, Any]) -> dict[str, Any]:
        states = []
        for name in question.images:
            file = resolve_image(self.image_folder, name).stat() if self.image_folder else None
            states.append([name, file and file.st_size, file and file.st_mtime_ns])
        asked = json.dumps([question.asked, states]).encode()
        return {**prediction, ASKED: hashlib.sha256(asked).hexdigest()}

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

    def add(self, answered: Iterable[tuple[Any, Mapping[str, Any]]]) -> None:
        """Append the predictions of questions, in one write where the disk takes it.

        A disk that is full costs them, and not the answers that are in memory.
        """
        try:
            text = "".join(json.dumps(self._line(*one)) + "\n" for one in answered).encode()
            number = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
            try:
                text = b"\n" * self.is_torn + text  # what the full disk took of the last ones ends within a line
                while text:  # a disk that fills takes a part, and says why not the rest when that is given again
                    text = text[os.write(number, text) :]
                    self.is_torn = bool(text)
            finally:
                os.close(number)
        except OSError as error:
            if not self.is_told:
                print(
                    f"WARNING: answers are not kept as they come: {DataError(self.path, write_problem(error))}",
                    file=sys.stderr,
                )
            self.is_told = True


@contextmanager
def told(kept: KeptAnswers, questions: Sequence[Any]) -> Iterator[None]:
    """Say what is kept, and how to go on, when the block ends badly: in the error's own line where it has one."""
    try:
        yield
    except BaseException as error:
        number = 0
        with suppress(Exception):  # what ended the block is told, whatever became of the file
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
