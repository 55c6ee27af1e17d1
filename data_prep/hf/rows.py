"""Rows of a Hugging Face data set, streamed: from the hub, a local folder, parquet, arrow, or one saved to disk.

    opened = open_rows("HuggingFaceH4/llava-instruct-mix-vsft", split="train")
    next(opened.rows)      # {"messages": [...], "images": [{"bytes": b"...", "path": None}]}

Pictures stay the bytes they are. Local parquet and arrow files are read 32 rows at a time, whatever their row groups
(parquet, here or on the hub: see hf_parquet.py): memory does not grow with the data. Everything else streams through
`datasets`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from data_prep.converters.rows import Row
from data_prep.errors import DataError
from data_prep.hf.footer import Group, groups_of, open_address, readable
from data_prep.hf.parquet import BATCH, rows_at, rows_by_group
from data_prep.records.foreign import ENDINGS

SPLITS = ("train", "test", "validation", "valid", "val", "dev", "eval")


class Opened(NamedTuple):
    """A data set: local files that hold the rows, the rows, how many there are, the hub's commit (None: unknown).

    `groups`: where the files are parquet, their groups of rows.
    """

    files: list[Path]
    rows: Generator[Row]
    total: int | None
    commit: str | None = None
    groups: Sequence[Group] = ()


def open_rows(source: str, split: str | None, config: str | None = None, revision: str | None = None) -> Opened:
    """Return the data set that `source` names, its rows not read yet.

    Raises DataError for an unknown source or split, with the splits there are.
    """
    path = Path(source)
    if path.is_dir() and (path / "dataset_dict.json").is_file():
        path = _saved_split(path, split)
        split = None
    files = _files(path)
    if files:
        chosen = files if path.is_file() else _of_split(path, files, split)
        return _parquet(chosen) if chosen[0].suffix == ".parquet" else _arrow(chosen)
    if path.is_dir():
        return _streamed(source, _tables_below(path), split or "train", config, None)
    if path.is_file():
        raise DataError(
            source, "not a parquet or arrow file; CSV, JSONL and Excel are read by: python -m data_prep table"
        )
    if path.suffix or source.startswith((".", "/")) or source.count("/") != 1:
        raise DataError(source, "no such file or folder (a data set of the hub is named OWNER/NAME)")
    return _streamed(source, [], split or "train", config, _commit(source, revision))


def _saved_split(path: Path, split: str | None) -> Path:
    names = sorted(child.name for child in path.iterdir() if (child / "state.json").is_file())
    wanted = split or ("train" if "train" in names else names[0] if names else "train")
    if wanted not in names:
        raise DataError(path, f'no split "{wanted}"; there are {", ".join(names)}')
    return path / wanted


def _files(path: Path) -> list[Path]:
    """Return the arrow or parquet files of a source: itself, those of a saved data set, or all parquet files below."""
    if path.is_file():
        return [path] if path.suffix in {".parquet", ".arrow"} else []
    if (path / "state.json").is_file():
        return sorted(path.glob("data-*.arrow"))
    return sorted(path.rglob("*.parquet")) if path.is_dir() else []


def _of_split(folder: Path, files: Sequence[Path], split: str | None) -> list[Path]:
    named = {file: _split_in(file.relative_to(folder).as_posix()) for file in files}
    known = sorted({name for name in named.values() if name})
    if not known and split in {None, "train"}:
        return list(files)
    wanted = split or ("train" if "train" in known else known[0])
    chosen = [file for file in files if named[file] == wanted]
    if not chosen:
        raise DataError(folder, f'no split "{wanted}"; its files name {", ".join(known) or "no split"}')
    return chosen


def _split_in(name: str) -> str | None:
    words = re.split(r"[-_./]", name.lower())
    return next((split for split in SPLITS if split in words), None)


def _parquet(files: list[Path]) -> Opened:
    groups: list[Group] = []
    total = 0
    for file in files:
        groups += groups_of(file, total)
        total = groups[-1].first + groups[-1].num_rows if groups else 0
    return Opened(files, _joined(rows_by_group(groups)), total, groups=groups)


def _arrow(files: list[Path]) -> Opened:
    return Opened(files, _joined(map(_arrow_rows, files)), sum(map(_count, files)))


def _joined(parts: Iterable[Iterator[Row]]) -> Generator[Row]:
    for rows in parts:
        yield from rows


def _arrow_rows(file: Path) -> Iterator[Row]:
    import pyarrow

    with readable(file), pyarrow.OSFile(str(file), "rb") as stream:
        try:
            reader = pyarrow.ipc.open_stream(stream)
            batches: Iterator[Any] = iter(reader)
        except pyarrow.ArrowInvalid:
            stream.seek(0)
            whole = pyarrow.ipc.open_file(stream)
            batches = (whole.get_batch(number) for number in range(whole.num_record_batches))
        for batch in batches:
            for start in range(0, batch.num_rows, BATCH):
                yield from batch.slice(start, BATCH).to_pylist()


def _count(file: Path) -> int:
    import pyarrow

    with readable(file), pyarrow.memory_map(str(file)) as stream:
        try:
            return sum(batch.num_rows for batch in pyarrow.ipc.open_stream(stream))
        except pyarrow.ArrowInvalid:
            whole = pyarrow.ipc.open_file(stream)
            return sum(whole.get_batch(number).num_rows for number in range(whole.num_record_batches))


def _tables_below(folder: Path) -> list[Path]:
    """Return the files of a folder that are no pictures: the metadata and archives that `datasets` reads."""
    below = (Path(place) / name for place, _, names in os.walk(folder) for name in names)
    return sorted(path for path in below if path.suffix.lower() not in ENDINGS)


def _commit(source: str, revision: str | None) -> str:
    """Return the commit that a data set of the hub stands at, so that one run reads one state and the meta names it."""
    import huggingface_hub

    with _told(source):
        return str(huggingface_hub.HfApi().dataset_info(source, revision=revision).sha)


def _streamed(source: str, files: list[Path], split: str, config: str | None, commit: str | None) -> Opened:
    import datasets

    with _told(source):
        builder = datasets.load_dataset_builder(source, config, revision=commit)
        rows = _parquet_rows(builder, split) or builder.as_streaming_dataset(split).decode(False)
    known = (builder.info.splits or {}).get(split)
    return Opened(files, _read(source, rows), known.num_examples if known else None, commit)


def _parquet_rows(builder: Any, split: str) -> Iterator[Row] | None:
    """Return the rows of a data set whose files are all parquet; None for another, or where it has no such split."""
    from datasets.packaged_modules.parquet.parquet import ParquetConfig

    files = (builder.config.data_files or {}).get(split)
    return rows_at(files) if isinstance(builder.config, ParquetConfig) and files else None


def _read(source: str, rows: Iterable[Row]) -> Generator[Row]:
    with _told(source):
        yield from rows


@contextmanager
def _told(source: str) -> Iterator[None]:
    """Say what a failure of `datasets` or the hub means for `source`."""
    import datasets
    import huggingface_hub.errors as hub

    try:
        yield
    except (OSError, hub.HTTPError) as error:  # type: ignore[attr-defined]  # the client's own errors are no OSError
        problem = f"cannot be reached or read ({_first_line(error)})"
        advice = "check the name and the network, or download it and give the folder"
        raise DataError(source, f"{problem}; {advice}") from None
    except (ValueError, datasets.exceptions.DatasetGenerationError) as error:
        raise DataError(source, f"{_first_line(error)}; see --split and --config") from None


def fetched(address: str) -> bytes:
    """Return the bytes behind an address in a streamed row, such as hf://datasets/OWNER/NAME/a.jpg or zip://a.jpg::..."""
    with open_address(address) as stream:
        return bytes(stream.read())


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
