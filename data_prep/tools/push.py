"""Publish records as a data set of the Hugging Face hub: pictures and texts in parquet shards, with a card.

    python -m data_prep push train.json OWNER/NAME --images pictures
    python -m data_prep push train=train.json test=test.json OWNER/NAME --images pictures --public

Private unless --public is given. Only pictures that a record names are taken. `python -m data_prep hf OWNER/NAME` and
`datasets.load_dataset` read it back. Run again after a break: what the hub has already is not sent again.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct

from data_prep.converters.options import converter_parser
from data_prep.errors import DataError, PictureError, UsageError, printable
from data_prep.files import write_problem, write_text
from data_prep.picture_folder import add_images_option
from data_prep.progress import Progress
from data_prep.publishing import publish, require_name
from data_prep.records.json_text import conform, require_characters
from data_prep.records.picture import read_picture, resolve_image
from data_prep.records.preference import is_pair, pair_of
from data_prep.records.record import Record, Records, images_of, read_records

EXAMPLES = """  python -m data_prep push train.json OWNER/NAME --images pictures
  python -m data_prep push train=train.json test=test.json OWNER/NAME --images pictures --public
  python -m data_prep push train.json OWNER/NAME --images pictures --dry-run build/shards"""
SHARD_BYTES = 400_000_000
"""Bytes of pictures in a shard, about: the hub's viewer and our own reader take shards of this size well."""
ROWS_AT_ONCE = 100


class Turn(Struct, rename={"speaker": "from"}):
    """A turn of a conversation."""

    speaker: str
    value: str


class Pushed(Struct):
    """What is needed of a record."""

    conversations: list[Turn]


OWN_COLUMNS = ("id", "image", "conversations", "answers")


def parse_splits(words: Sequence[str]) -> dict[str, Path]:
    """Split names and files from `train.json` or `train=a.json test=b.json`; UsageError says what is wrong."""
    splits: dict[str, Path] = {}
    for word in words:
        name, mark, path = word.partition("=")
        if not mark:
            name, path = "train", word
        if not name.isidentifier() or name in splits:
            raise UsageError(f"{word}: expected NAME=FILE with a different plain name each, such as test=test.json")
        splits[name] = Path(path)
    return splits


def row_of(record: Record, folder: Path | None) -> dict[str, Any]:
    """A row of a shard: pictures by their bytes and names, turns, answers, and what else the record holds as JSON."""
    where = f'record "{printable(record.get("id"))[:80]}"'
    conform(record, Pushed, where)
    require_characters(record, where)
    if is_pair(record):
        pair_of(record)
    if empty := next((number for number, turn in enumerate(record["conversations"], 1) if _is_unanswered(turn)), None):
        raise DataError(where, f"turn {empty}: an empty answer; python -m data_prep check RECORDS --fix FILE drops it")
    names = images_of(record)
    if names and folder is None:
        raise UsageError(f'record "{record.get("id")}" names a picture; say where it lies with --images FOLDER')
    pictures = []
    for name in names:
        path = resolve_image(folder or Path(), name)
        try:
            pictures.append({"bytes": read_picture(path), "path": name})
        except PictureError as error:
            raise DataError(path, f'{error.problem}; record "{record.get("id")}" names it') from None
    more = {key: value for key, value in record.items() if key not in OWN_COLUMNS}
    answers = record.get("answers")
    if not (isinstance(answers, list) and all(isinstance(answer, str) for answer in answers)):
        more |= {} if answers is None else {"answers": answers}
        answers = None
    return {
        "id": str(record.get("id", "")),
        "images": pictures,
        "conversations": [{"from": turn["from"], "value": turn["value"]} for turn in record["conversations"]],
        "answers": answers,
        "more": json.dumps(more, ensure_ascii=False) if more else None,
    }


def _is_unanswered(turn: Mapping[str, str]) -> bool:
    return turn["from"] == "gpt" and not turn["value"].strip()


def schema() -> Any:
    """The columns of a shard, with the words by which `datasets` knows pictures."""
    import pyarrow as pa

    text = {"dtype": "string", "_type": "Value"}
    features = {
        "id": text,
        "images": {"feature": {"_type": "Image"}, "_type": "List"},
        "conversations": {"feature": {"from": text, "value": text}, "_type": "List"},
        "answers": {"feature": text, "_type": "List"},
        "more": text,
    }
    columns = [
        ("id", pa.string()),
        ("images", pa.list_(pa.struct([("bytes", pa.binary()), ("path", pa.string())]))),
        ("conversations", pa.list_(pa.struct([("from", pa.string()), ("value", pa.string())]))),
        ("answers", pa.list_(pa.string())),
        ("more", pa.string()),
    ]
    return pa.schema(columns, metadata={"huggingface": json.dumps({"info": {"features": features}})})


def _rows(records: Records, pictures: Path | None) -> Iterator[dict[str, Any]]:
    for index in range(len(records)):
        record = records[index]
        try:
            yield row_of(record, pictures)
        except UsageError:
            raise
        except DataError as error:
            raise DataError(records.path, f"line {records.line(index)}: {error}") from None


def write_shards(name: str, records: Records, pictures: Path | None, target: Path) -> list[Path]:
    """Write the shards of one split into `target`: the same records give the same bytes, so a second run sends none."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = schema()
    paths: list[Path] = []
    rows = _rows(records, pictures)
    with Progress(f"packing {name}", len(records), "records") as progress:
        waiting: list[dict[str, Any]] = []
        writer, size = None, 0

        def flush() -> None:
            nonlocal writer, waiting
            if waiting:
                if writer is None:
                    paths.append(target / f"{name}-{len(paths):05d}.parquet")
                    writer = pq.ParquetWriter(paths[-1], columns, compression="zstd")
                writer.write_table(pa.Table.from_pylist(waiting, columns))
                waiting = []

        for row in progress.each(rows):
            waiting.append(row)
            size += sum(len(picture["bytes"]) for picture in row["images"])
            if len(waiting) >= ROWS_AT_ONCE or size >= SHARD_BYTES:
                flush()
            if size >= SHARD_BYTES and writer is not None:
                writer.close()
                writer, size = None, 0
        flush()
        if writer is not None:
            writer.close()
    return paths


def card(repository: str, counts: Mapping[str, tuple[int, int]]) -> str:
    """The data set's README.md: what the splits are for the hub, how to read them back for people."""
    files = "\n".join(f"  - split: {name}\n    path: data/{name}-*.parquet" for name in counts)
    table = "\n".join(f"| {name} | {records:,} | {pictures:,} |" for name, (records, pictures) in counts.items())
    return f"""---
configs:
- config_name: default
  data_files:
{files}
tags:
- llava
- visual-question-answering
---
# {repository.split("/")[-1]}

Questions and answers about pictures, as conversations that LLaVA is fine-tuned on.

| split | records | pictures |
|---|---|---|
{table}

Each row holds `id`, `images` (bytes and name), `conversations` (turns of `human` and `gpt`, `<image>` where a picture
stands), `answers` (all reference answers) and `more` (other keys of the record, as JSON).

    python -m data_prep hf {repository} --output records.json
    datasets.load_dataset("{repository}")
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Pack and send."""
    parser = converter_parser("push", "Publish records as a data set of the Hugging Face hub.", EXAMPLES)
    parser.add_argument("records", nargs="+", metavar="RECORDS", help="records, or SPLIT=RECORDS for several splits")
    parser.add_argument("repository", metavar="OWNER/NAME", help="the data set on the hub")
    add_images_option(parser, dest="images")
    parser.add_argument("--public", action="store_true", help="let everybody see it (default: private)")
    parser.add_argument("--dry-run", type=Path, metavar="FOLDER", help="only write what would be sent, into FOLDER")
    args = parser.parse_args(argv)
    require_name(args.repository)
    splits = {name: read_records(path) for name, path in parse_splits(args.records).items()}
    if empty := next((records.path for records in splits.values() if not len(records)), None):
        raise DataError(empty, "no record in it; nothing was sent")
    # Packed apart first: a record that is refused leaves nothing behind, and no shard is replaced by half of one.
    there = next((one for one in (args.dry_run, *args.dry_run.parents) if one.is_dir()), None) if args.dry_run else None
    try:
        with tempfile.TemporaryDirectory(prefix=".push-", dir=there) as made:
            pack(splits, args, Path(made))
            if args.dry_run:
                _move(Path(made), args.dry_run, splits)
                return 0
            old = [shards_of(name) for name in splits]
            url = publish(args.repository, Path(made), "dataset", public=args.public, replaced=old)
    except OSError as error:
        raise DataError(args.dry_run or tempfile.gettempdir(), write_problem(error)) from None
    print(f"{url}: {'public' if args.public else 'private'}")
    return 0


def shards_of(name: str) -> str:
    """Return the pattern of a split's shards: those of an earlier, longer split would be read with the new ones."""
    return f"data/{name}-[0-9][0-9][0-9][0-9][0-9].parquet"


def _move(made: Path, folder: Path, splits: Iterable[str]) -> None:
    """Put shards and card where they were asked for, in place of earlier ones."""
    (folder / "data").mkdir(parents=True, exist_ok=True)
    for path in [path for name in splits for path in folder.glob(shards_of(name))]:
        path.unlink()
    for path in (*sorted((made / "data").iterdir()), made / "README.md"):
        path.replace(folder / path.relative_to(made))


def pack(splits: Mapping[str, Records], args: argparse.Namespace, folder: Path) -> None:
    """Write shards and card into `folder`, and say what they hold."""
    counts = {}
    (folder / "data").mkdir()
    for name, records in splits.items():
        paths = write_shards(name, records, args.images, folder / "data")
        pictures = {name for record in records for name in images_of(record)}
        counts[name] = (len(records), len(pictures))
        size = sum(path.stat().st_size for path in paths)
        print(f"{name}: {len(records)} records, {len(pictures)} pictures, {len(paths)} shards, {size / 1e6:.1f} MB")
    write_text(folder / "README.md", card(args.repository, counts))


if __name__ == "__main__":
    sys.exit(main())
