"""Rows of a Hugging Face data set, streamed: from the hub, a local folder, parquet, arrow, tables, or saved to disk.

    opened = open_rows("HuggingFaceH4/llava-instruct-mix-vsft", split="train")
    next(opened.rows)      # {"messages": [...], "images": [{"bytes": b"...", "path": None}]}

Pictures stay the bytes they are. Local parquet and arrow files are read 32 rows at a time, whatever their row groups
(parquet, here or on the hub: see hf/parquet.py): memory does not grow with the data. JSON, CSV and Excel files are read
as `table` reads them. Everything else streams through `datasets`.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from data_prep.converters.beside import text_beside
from data_prep.converters.labels import Names, label_names, names_in
from data_prep.converters.rows import Reading, Row
from data_prep.converters.unpacking import BATCH, Allowance
from data_prep.errors import DataError, first_line
from data_prep.hf.arrow_batches import num_rows
from data_prep.hf.footer import Group, groups_of, open_address, readable
from data_prep.hf.parquet import rows_at, rows_by_group, schema_of
from data_prep.hf.tables import TABLES, split_in, table_rows, tables_in
from data_prep.records.foreign import ENDINGS

ARCHIVES = {
    ".tar": "where it is a shard of webdataset, give the folder that it lies in, else unpack it",
    **dict.fromkeys((".zip", ".gz", ".tgz", ".7z", ".rar"), "unpack it and give the folder or the file in it"),
}


class Opened(NamedTuple):
    """A data set: local files that hold the rows, the rows, how many there are, the hub's commit (None: unknown).

    `groups`: where the files are parquet, their groups of rows. `names`: those of its classes, by column.
    """

    files: list[Path]
    rows: Generator[Row]
    total: int | None
    commit: str | None = None
    groups: Sequence[Group] = ()
    names: Names | None = None


class Asked(NamedTuple):
    """What of a data set is asked for, and how it is read; `skip`: a file that is no part of it, our own output."""

    split: str | None = None
    config: str | None = None
    revision: str | None = None
    reading: Reading = Reading()
    skip: Path | None = None


def open_rows(source: str, asked: Asked) -> Opened:
    """Return the data set that `source` names, its rows not read yet.

    Raises DataError for an unknown source or split, with the splits there are.
    """
    path, split = Path(source), asked.split
    if path.is_dir() and (path / "dataset_dict.json").is_file():
        path = _saved_split(path, split)
        split = None
    files = _files(path)
    if files:
        chosen = files if path.is_file() else _of_split(path, files, split)
        return _parquet(chosen, asked) if chosen[0].suffix == ".parquet" else _arrow(chosen, asked)
    if path.is_file():
        if path.suffix.lower() not in TABLES:
            advice = f"data sets end in .parquet, .arrow, {', '.join(sorted(TABLES))}"
            if path.suffix.lower() in ARCHIVES:
                advice = ARCHIVES[path.suffix.lower()]
            raise DataError(source, f"not a data set that is read; {advice}")
        is_named = (asked.split or "train").lower() == (split_in(path.name) or "train")
        return _tables([path], asked, is_named)
    if path.is_dir():
        return _folder(source, path, split, asked)
    if path.suffix or source.startswith((".", "/")) or source.count("/") != 1:
        raise DataError(source, "no such file or folder (a data set of the hub is named OWNER/NAME)")
    return _streamed(source, [], split or "train", asked, _commit(source, asked.revision))


def _folder(source: str, path: Path, split: str | None, asked: Asked) -> Opened:
    """Return the data set of a folder without parquet: its tables, else pictures and archives as `datasets` reads."""
    described = any((path / f"metadata.{ending}").is_file() for ending in ("csv", "jsonl"))
    tables = [] if described else tables_in(path, asked.skip)
    if tables:
        return _tables(_of_split(path, tables, split), asked, is_named=True)
    if scripts := sorted(path.glob("*.py")):
        advice = "give the data files themselves (.parquet, .json, .csv)"
        raise DataError(source, f"a loading script ({scripts[0].name}), which is not run, and no data: {advice}")
    if not described and any(text_beside(picture) for picture in _pictures_in(path)):
        advice = f"python -m data_prep captions {source} --images {source} --output records.json reads them"
        raise DataError(source, f"pictures with a text beside each; {advice}")
    return _streamed(source, _others_below(path), split or "train", asked, None)


def _pictures_in(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.suffix.lower() in ENDINGS)


def _tables(files: list[Path], asked: Asked, is_named: bool) -> Opened:
    reading = asked.reading._replace(split=asked.split)
    return Opened(files, _joined(table_rows(file, reading, is_named) for file in files), None)


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
    return sorted(file for file in path.rglob("*.parquet") if file.is_file()) if path.is_dir() else []


def _of_split(folder: Path, files: Sequence[Path], split: str | None) -> list[Path]:
    named = {file: split_in(file.relative_to(folder).as_posix()) for file in files}
    known = sorted({name for name in named.values() if name})
    if not known and split in {None, "train"}:
        return list(files)
    wanted = split or ("train" if "train" in known else known[0])
    chosen = [file for file in files if named[file] == wanted]
    if not chosen:
        raise DataError(folder, f'no split "{wanted}"; its files name {", ".join(known) or "no split"}')
    return chosen


def _parquet(files: list[Path], asked: Asked) -> Opened:
    groups: list[Group] = []
    total = 0
    for file in files:
        groups += groups_of(file, total)
        total = groups[-1].first + groups[-1].num_rows if groups else 0
    rows = _joined(rows_by_group(groups, asked.reading.most_unpacked))
    return Opened(files, rows, total, groups=groups, names=label_names(schema_of(groups)))


def _arrow(files: list[Path], asked: Asked) -> Opened:
    most = asked.reading.most_unpacked
    rows = _joined(_arrow_rows(file, most) for file in files)
    return Opened(files, rows, sum(_count(file, most) for file in files), names=label_names(_arrow_schema(files[0])))


def _arrow_schema(file: Path) -> dict[bytes, bytes]:
    import pyarrow

    with readable(file), pyarrow.memory_map(str(file)) as stream:
        try:
            schema = pyarrow.ipc.open_stream(stream).schema
        except pyarrow.ArrowInvalid:
            schema = pyarrow.ipc.open_file(stream).schema
        return dict(schema.metadata or {})


def _joined(parts: Iterable[Iterator[Row]]) -> Generator[Row]:
    for rows in parts:
        yield from rows


def _arrow_rows(file: Path, most_unpacked: int) -> Iterator[Row]:
    import pyarrow

    allowance = Allowance(file, file.stat().st_size, most_unpacked)
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
                yield from allowance.rows(batch.slice(start, BATCH))


def _count(file: Path, most_unpacked: int) -> int:
    with readable(file):
        try:
            return num_rows(file, most_unpacked)
        except (struct.error, IndexError):
            raise DataError(file, "is damaged: what describes a batch is cut off; copy the file again") from None


def _others_below(folder: Path) -> list[Path]:
    """Return the files of a folder that are no pictures: the metadata and archives that `datasets` reads."""
    below = (Path(place) / name for place, _, names in os.walk(folder) for name in names)
    return sorted(path for path in below if path.suffix.lower() not in ENDINGS)


def _commit(source: str, revision: str | None) -> str:
    """Return the commit that a data set of the hub stands at, so that one run reads one state and the meta names it."""
    import huggingface_hub

    with _told(source):
        return str(huggingface_hub.HfApi().dataset_info(source, revision=revision).sha)


def _streamed(source: str, files: list[Path], split: str, asked: Asked, commit: str | None) -> Opened:
    import datasets

    with _told(source):
        builder = datasets.load_dataset_builder(source, asked.config, revision=commit)
        rows = _parquet_rows(builder, split, asked.reading.most_unpacked)
        if rows is None:
            streamed = builder.as_streaming_dataset(split)
            rows = streamed.decode(False) if streamed.features else streamed
        features = builder.info.features or getattr(rows, "features", None)
        names = names_in(features.to_dict()) if features else _names_of(builder, split)
    known = (builder.info.splits or {}).get(split)
    return Opened(files, _read(source, rows), known.num_examples if known else None, commit, names=names)


def _names_of(builder: Any, split: str) -> Names:
    """Return the names of the classes that the schema of the first parquet file tells, where the card tells none."""
    files = _parquet_files(builder, split)
    return label_names(schema_of(groups_of(files[0]))) if files else {}


def _parquet_files(builder: Any, split: str) -> list[str]:
    """Return the addresses of a data set whose files are all parquet; none for another, or without such a split."""
    from datasets.packaged_modules.parquet.parquet import ParquetConfig

    files = (builder.config.data_files or {}).get(split)
    return list(files or ()) if isinstance(builder.config, ParquetConfig) else []


def _parquet_rows(builder: Any, split: str, most_unpacked: int) -> Iterator[Row] | None:
    files = _parquet_files(builder, split)
    return rows_at(files, most_unpacked) if files else None


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
        problem = f"cannot be reached or read ({first_line(error):.200})"
        advice = "check the name and the network, or download it and give the folder"
        raise DataError(source, f"{problem}; {advice}") from None
    except (ValueError, datasets.exceptions.DatasetGenerationError) as error:
        raise DataError(source, f"{first_line(error):.200}; see --split and --config") from None
    except RuntimeError as error:  # a loading script: `datasets` runs none since its version 4
        raise DataError(source, f"{first_line(error):.200}; give data files (.parquet, .json, .csv)") from None


def fetched(address: str) -> bytes:
    """Return the bytes behind an address in a streamed row, such as hf://datasets/OWNER/NAME/a.jpg or zip://a.jpg::..."""
    with open_address(address) as stream:
        return bytes(stream.read())
