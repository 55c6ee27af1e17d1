"""Check a records file: its texts, its pictures, its test set, and with a model its tokens. Training begins with it.

    report = check_records("records.json", "images", cache_dir="runs/cache", model="liuhaotian/llava-v1.5-7b")

A report is cached under the hash of the records and of every picture's name, size and time: a second run costs seconds.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import stat
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep.check.boxes import box_findings
from data_prep.check.inspect import Facts
from data_prep.check.passes import RecordPass
from data_prep.check.pictures import leak_findings, picture_findings
from data_prep.check.report import Report, from_json
from data_prep.check.scan import scan
from data_prep.errors import DataError, PictureError, PictureFault
from data_prep.files import sha256_of, write_json
from data_prep.records.json_text import read_json
from data_prep.records.names import resolve_image
from data_prep.records.picture import VERSION as PICTURE_VERSION
from data_prep.records.pixels import pixel_limit
from data_prep.records.record import Records, images_of, read_records

VERSION = 8
"""Part of the cache's key: one more whenever a check changes."""

Name = str | os.PathLike[str]


@dataclass(frozen=True)
class Depth:
    """How deep to look: `decode` every picture or only see that it is there; token lengths for `model` or none."""

    decode: bool = True
    model: str | None = None
    max_length: int | None = None
    template: str | None = None


def check_records(
    path: Name,
    image_folder: Name | None,
    *,
    cache_dir: Name | None = None,
    model: str | None = None,
    test_path: Name | None = None,
    test_image_folder: Name | None = None,
    decode: bool = True,
    max_length: int | None = None,
    template: str | None = None,
    workers: int | None = None,
) -> Report:
    """Return what is wrong with the records at `path` and their pictures in `image_folder`.

    `image_folder` None looks at no picture. `model` (a folder or a hub name) adds token lengths, with `max_length` and
    `template` in place of the model's own. `test_path` adds pictures that are in both files. `cache_dir` keeps
    the report under the hash of everything it depends on. Raises DataError only when a file cannot be opened at all.
    Memory: about 0.4 kB a record, 0.6 kB a picture, and a process of 110 MB with one decoded picture for each core.
    """
    begin = time.monotonic()
    depth = Depth(decode, model, max_length, template)
    records = read_records(path)
    test = read_records(test_path) if test_path else None
    cached = _cache_file(records, test, image_folder, test_image_folder, depth, Path(cache_dir)) if cache_dir else None
    if cached and (kept := _kept(cached)):
        kept.path, kept.from_cache = str(path), True
        return kept
    report = _check(records, image_folder, test, test_image_folder or image_folder, depth, workers)
    report.seconds = time.monotonic() - begin
    if cached:
        write_json(cached, report.as_json())
    return report


def _kept(cached: Path) -> Report | None:
    """The report in a cache's file; None where there is none, or a damaged one."""
    try:
        return from_json(read_json(cached))
    except (DataError, KeyError, TypeError, AttributeError):
        return None


def _check(
    records: Records,
    folder: Name | None,
    test: Records | None,
    test_folder: Name | None,
    depth: Depth,
    workers: int | None,
) -> Report:
    report, seen = _texts_of(records, folder, depth.decode)
    facts: dict[str, Facts] = {}
    if folder is not None:
        facts = look(folder, list(seen.pictures), depth.decode, workers)
        picture_findings(report, records, seen.pictures, facts)
    box_findings(report, seen.boxes, facts)
    if test is not None:
        names = list(dict.fromkeys(name for names in names_of(test) for name in names))
        test_facts = look(test_folder, names, True, workers) if test_folder is not None and depth.decode else {}
        leak_findings(report, records, seen.pictures, facts, names, test_facts, folder == test_folder)
    if depth.model:
        from data_prep.check.tokens import token_findings

        sizes = {name: (found.width, found.height) for name, found in facts.items() if found.width}
        token_findings(report, records, sizes, depth.model, depth.max_length, depth.template)
    return report


def _texts_of(records: Records, folder: Name | None, decode: bool) -> tuple[Report, RecordPass]:
    report = Report(str(records.path), os.fspath(folder) if folder is not None else None, decoded=decode)
    seen = RecordPass(report)
    seen.run(records)
    report.num_pictures = len(seen.pictures)
    return report, seen


def check_together(paths: Sequence[Name]) -> list[Report]:
    """Return a report of the texts of each file, read once, with the pictures that a later file has too."""
    parts = []
    for path in paths:
        records, begin = read_records(path), time.monotonic()
        report, seen = _texts_of(records, None, False)
        box_findings(report, seen.boxes, {})
        report.seconds = time.monotonic() - begin
        parts.append((records, report, seen.pictures))
    for number, (records, report, pictures) in enumerate(parts):
        later = itertools.chain.from_iterable(others for _, _, others in parts[number + 1 :])
        leak_findings(report, records, pictures, {}, later, {}, same_folder=True)
    return [report for _, report, _ in parts]


def look(folder: Name, names: list[str], decode: bool, workers: int | None = None) -> dict[str, Facts]:
    """Return the facts of pictures: all of them (decoded), or only whether they are there."""
    if decode:
        return scan(folder, names, workers)
    return {name: _is_there(folder, name) for name in names}


def _is_there(folder: Name, name: str) -> Facts:
    try:
        path = resolve_image(folder, name)
        mode = path.stat().st_mode
    except PictureError as error:
        return Facts(fault=error.fault, problem=error.problem)
    except OSError as error:
        is_gone = isinstance(error, FileNotFoundError | NotADirectoryError)
        problem = f"no such file in {os.fspath(folder)}" if is_gone else f"cannot be read ({error.strerror})"
        return Facts(fault=PictureFault.MISSING if is_gone else PictureFault.UNREADABLE, problem=problem)
    return Facts() if stat.S_ISREG(mode) else Facts(fault=PictureFault.NOT_A_PICTURE, problem="a folder or a pipe")


def names_of(records: Records) -> Iterator[list[str]]:
    """Yield the picture names of each record; none for a record that cannot be read."""
    for index in range(len(records)):
        try:
            yield images_of(records[index])
        except DataError:
            yield []


def _cache_file(
    records: Records, test: Records | None, folder: Name | None, test_folder: Name | None, depth: Depth, cache: Path
) -> Path:
    digest = hashlib.sha256()
    parts: list[Any] = [
        VERSION,
        PICTURE_VERSION,
        pixel_limit(),
        depth.decode,
        depth.max_length,
        depth.template,
        _model_key(depth.model),
    ]
    for some, where in ((records, folder), (test, test_folder or folder)):
        parts += [sha256_of(some.path) if some else None, os.path.realpath(where) if where is not None else None]
        if some is not None and where is not None:
            for names in names_of(some):
                for name in names:
                    digest.update(_stamp(where, name))
    digest.update(json.dumps(parts).encode())
    return cache / f"check-{digest.hexdigest()[:32]}.json"


def _stamp(folder: Name, name: str) -> bytes:
    try:
        status = os.stat(f"{os.fspath(folder)}/{name}")  # noqa: PTH116
    except (OSError, ValueError):
        return f"{name!r} none\n".encode()
    return f"{name!r} {status.st_size} {status.st_mtime_ns}\n".encode()


def _model_key(model: str | None) -> list[str]:
    """Return what the tokens of `model` depend on: its name, and the hashes of its configuration and tokenizer."""
    if not model:
        return []
    files = sorted(Path(model).glob("*.json")) + sorted(Path(model).glob("tokenizer*")) if Path(model).is_dir() else []
    return [model, *(f"{file.name} {sha256_of(file)}" for file in files)]
