"""Tables as the files of a data set: those of a folder, and the rows of the split that is asked for.

for row in table_rows(Path("vqa.csv"), Reading(split="test"), is_named=False): ...      # whose column `split` says test
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from data_prep.converters.rows import NUM_NAMES, SPLITS, Reading, Row, read_rows, say_splits, split_of
from data_prep.errors import DataError, quoted

TABLES = {".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".xlsx"}
NO_ROWS = {"dataset_info.json", "dataset_infos.json", "state.json", "dataset_dict.json", "package.json"}
"""Files of a folder that describe it."""


def tables_in(folder: Path, skip: Path | None) -> list[Path]:
    """Return the tables of a folder, else of the folders in it: what describes it and our own output left out."""
    for found in (folder.glob("*"), folder.rglob("*")):
        tables = [
            path for path in found
            if path.suffix.lower() in TABLES and path.name not in NO_ROWS and not path.name.endswith(".meta.json")
            and not any(part.startswith(".") for part in path.relative_to(folder).parts)
            and not (path.name.startswith("metadata.") and path.suffix != ".xlsx")
            and not (skip and path.resolve() == skip.resolve())
        ]  # fmt: skip
        if tables:
            return sorted(tables)
    return []


def table_rows(file: Path, reading: Reading, is_named: bool) -> Iterator[Row]:
    """Yield the rows of a table: all, or where a split is asked for those that say to be of it.

    A row says it by its column, or by the list or the sheet that it is in; `is_named`: the name of the file says it of
    the rows that do not. Raises DataError for a row of which nothing says it, for a split without a row, and for rows
    that are no objects.
    """
    wanted = reading.split.lower() if reading.split else None
    known: Counter[str | None] = Counter()
    for place, row in read_rows(file, reading):
        if not isinstance(row, dict):
            raise DataError(file, f"{place}: expected an object {{...}}, found {quoted(row)}")
        part = place.partition(" ")[0].lower()
        mine = split_of(row)
        if mine is None and (part == wanted or part in SPLITS):
            mine = part
        if mine is None and wanted and not is_named:
            problem = f'{place}: neither a column split, nor a list or sheet, nor the file is named "{reading.split}"'
            raise DataError(file, f"{problem}; leave --split out to take all rows")
        known[mine] += 1
        if mine in {None, wanted} or wanted is None:
            yield row
    if not wanted:
        say_splits(file, known)
    elif known and set(known).isdisjoint({None, wanted}):
        there = ", ".join(sorted(f"{name:.60}" for name in known if name)[:NUM_NAMES]) or "none"
        raise DataError(file, f'no row of the split "{reading.split}"; there are {there}')
    elif known[""]:
        print(f"{file}: rows whose split is empty are left out ({known['']:,})")


def split_in(name: str) -> str | None:
    """Return the split that a file's name tells; None for none."""
    words = re.split(r"[-_./]", name.lower())
    return next((split for split in SPLITS if split in words), None)
