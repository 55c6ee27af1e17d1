"""What preparing data costs, as ratios to the bare work: OK-VQA, streamed rows, the check, a million records.

    python benchmarks/data_prep.py                       all four, at a size that takes minutes
    python benchmarks/data_prep.py --parts check         one of: okvqa rows check million
    python benchmarks/data_prep.py --rows 272000         the real set's number of rows (12 GB at 46 kB a picture)

Every measurement is a fresh process that tells its wall seconds, processor seconds (children counted) and peak memory;
ours and the bare loop run in turn, and the medians of the rounds are compared. Prints a table, writes JSON (--output).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
NUM_QUESTIONS = 9009
PICTURE_BYTES = 46_000  # --picture-bytes: the mean of llava-instruct-mix-vsft: 12 GB for 259,155 rows

PROBE = """
import contextlib, json, os, resource, sys, time
values = json.load(sys.stdin)
begin = time.perf_counter()
with contextlib.redirect_stdout(sys.stderr):
{code}
seconds = time.perf_counter() - begin
own, below = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
memory = own.ru_maxrss
if os.path.exists("/proc/self/status"):  # ru_maxrss begins with the parent's
    memory = int(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
print(json.dumps({{"seconds": seconds, "memory": memory * 1024, "below": below.ru_maxrss * 1024,
                   "cpu": own.ru_utime + own.ru_stime + below.ru_utime + below.ru_stime}}))
"""

COMMAND = "from data_prep.__main__ import main\nassert main(values['words']) == 0"

BARE_WRITES = """
import pathlib, shutil
folder = pathlib.Path(values['folder'])
folder.mkdir(parents=True)
[(folder / f'{n:02x}').mkdir() for n in range(256)]
base = pathlib.Path(values['picture']).read_bytes()
for number in range(values['rows']):
    with open(f"{folder}/{number % 256:02x}/{number}.jpg", 'wb', buffering=0) as stream:
        stream.write(base + number.to_bytes(8, 'big'))
"""

BARE_ROWS = """
import pathlib, pyarrow.parquet
folder = pathlib.Path(values['folder'])
folder.mkdir(parents=True)
[(folder / f'{n:02x}').mkdir() for n in range(256)]
number = 0
with pyarrow.parquet.ParquetFile(values['parquet'], pre_buffer=False) as parquet:
    for batch in parquet.iter_batches(batch_size=32, columns=['images'], use_threads=False):
        for images in batch.column(0).to_pylist():
            with open(f"{folder}/{number % 256:02x}/{number}.jpg", 'wb', buffering=0) as stream:
                stream.write(images[0]['bytes'])
            number += 1
"""

BARE_STREAM = """
import datasets, pathlib
folder = pathlib.Path(values['folder'])
folder.mkdir(parents=True)
rows = datasets.load_dataset('parquet', data_files=values['parquet'], split='train', streaming=True)
for number, row in enumerate(rows):
    with open(f"{folder}/{number}.jpg", 'wb', buffering=0) as stream:
        stream.write(row['images'][0]['bytes'])
"""

BARE_DECODE = """
import multiprocessing
from PIL import Image
def decode(name):
    with Image.open(name) as image:
        image.load()
with multiprocessing.get_context('fork').Pool(values['cores']) as pool:
    pool.map(decode, values['names'], 32)
"""

CHECK = """
from data_prep.check import check_records
report = check_records(values['records'], values['folder'])
assert report.ok and report.num_pictures == values['pictures'], report
"""

OPEN = """
import random
from data_prep.records.record import read_records
records = read_records(values['records'])
assert len(records) == values['count']
"""

ACCESS = (
    OPEN
    + """
draw = random.Random(0)
for _ in range(values['reads']):
    number = draw.randrange(values['count'])
    assert records[number]['id'] == f'okvqa-{number}'
"""
)


class Row(NamedTuple):
    """One line of the table: what was measured, what must hold, and whether it does."""

    what: str
    measured: str
    must: str
    holds: bool


def measure(code: str, **values: Any) -> dict[str, float]:
    """Run `code` in a fresh interpreter; return its seconds, processor seconds and peak memory in bytes."""
    indented = "\n".join(f"    {line}" for line in code.strip().splitlines())
    variables = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", PROBE.format(code=indented)],
        input=json.dumps(values),  # longer than an argument may be
        cwd=ROOT,
        env=variables,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"failed: {code[:200]}\n{done.stderr[-1500:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])  # type: ignore[no-any-return]


def median(runs: Sequence[dict[str, float]], key: str) -> float:
    """The median of one figure over the rounds."""
    return statistics.median(run[key] for run in runs)


def noisy_jpeg(path: Path, seed: int, size: tuple[int, int] = (640, 480), quality: int = 60) -> Path:
    """Write a JPEG of photograph-like size: a smooth picture with noise on it, different for each seed."""
    from PIL import Image

    small = Image.effect_noise((40, 30), 90).convert("RGB").resize(size, Image.Resampling.BICUBIC)
    grain = Image.effect_noise(size, 18).convert("RGB")
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.blend(small, grain, 0.25).rotate(seed % 4 * 90).resize(size).save(path, quality=quality)
    return path


def okvqa(work: Path, options: argparse.Namespace) -> tuple[list[Row], dict[str, Any]]:
    """OK-VQA's 9,009 questions (real ones with --questions) with ten answers each, pictures named and not decoded."""
    folder = work / "coco"
    base = noisy_jpeg(folder / "base.jpg", 0)
    if options.questions:
        questions = json.loads(options.questions.read_text(encoding="utf-8"))["questions"]
    else:
        questions = [
            {"image_id": n + 1, "question_id": n * 10 + 5, "question": f"What is the hairstyle of person {n} called?"}
            for n in range(NUM_QUESTIONS)
        ]
    answers = [[{"answer": f"word {(n + k // 4) % 900}"} for k in range(10)] for n in range(len(questions))]
    annotations = [
        {"question_id": row["question_id"], "answers": some} for row, some in zip(questions, answers, strict=True)
    ]
    for row in questions:
        name = folder / f"COCO_train2014_{row['image_id']:012d}.jpg"
        if not name.exists():
            name.hardlink_to(base)
    (work / "q.json").write_text(json.dumps({"data_subtype": "train2014", "questions": questions}))
    (work / "a.json").write_text(json.dumps({"annotations": annotations}))
    words = ["okvqa", "--questions", str(work / "q.json"), "--annotations", str(work / "a.json")]
    words += ["--image-folder", str(folder), "--output", str(work / "okvqa.json"), "--check", "records"]
    runs = [measure(COMMAND, words=words) for _ in range(options.rounds)]
    seconds, cpu = median(runs, "seconds"), median(runs, "cpu")
    what = f"`okvqa`: {len(questions):,} questions, texts and names checked"
    row = Row(what, f"{seconds:.1f} s ({cpu:.1f} s of processor)", "< 10 s", cpu < 10)
    return [row], {"okvqa": runs}


def rows(work: Path, options: argparse.Namespace) -> tuple[list[Row], dict[str, Any]]:
    """`messages` rows with pictures beside a loop of bare writes, in the page cache and down to the disk.

    Loops over pyarrow and over `datasets` that read the rows and write their bytes are measured, too, and the memory of
    an eighth of the rows and of row groups of 4,000, whose pages are 47 MB.
    """
    picture = work / "picture.jpg"
    raw = noisy_jpeg(picture, 1).read_bytes()
    picture.write_bytes((raw + os.urandom(options.picture_bytes))[: options.picture_bytes])
    parquet = work / "messages.parquet"
    write_parquet(parquet, picture.read_bytes(), options.rows)
    to_disk = "\nos.sync()"
    codes = {
        "ours": COMMAND, "writes": BARE_WRITES, "ours to disk": COMMAND + to_disk,
        "writes to disk": BARE_WRITES + to_disk, "rows to disk": BARE_ROWS + to_disk,
        "datasets to disk": BARE_STREAM + to_disk,
    }  # fmt: skip
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in codes}
    for number in range(options.rounds):
        for name, code in codes.items():
            folder = work / f"{name}-{number}"
            words = ["hf", str(parquet), "--output", str(folder / "r.jsonl"), "--check", "none"]
            values = {"words": words, "folder": str(folder), "picture": str(picture), "parquet": str(parquet)}
            os.sync()
            runs[name].append(measure(code, rows=options.rows, **values))
            empty_files(folder)
    parquet.unlink()
    few = memory_of_rows(work, picture.read_bytes(), options.rows // 8, 100)
    large = memory_of_rows(work, picture.read_bytes(), 8000, 4000)
    return rows_table(runs, options, few, large), {"rows": runs}


def empty_files(folder: Path) -> None:
    """Free the bytes of the files below a folder, not the files.

    After many files were removed, ext4 looks at each inode that was freed in the last minutes before it takes another:
    creating a file took up to twenty times as long, in whatever run came next.
    """
    for place, _, names in os.walk(folder):
        for name in names:
            os.truncate(f"{place}/{name}", 0)


def rows_table(
    runs: dict[str, list[dict[str, float]]], options: argparse.Namespace, few: float, large: float
) -> list[Row]:
    """The lines of `rows`; `few` and `large` are the memory at an eighth of the rows and with large pages."""
    seconds = {name: median(some, "seconds") for name, some in runs.items()}
    peak = max(map(together, runs["ours"]))
    size = options.rows * options.picture_bytes / 1e6
    disk, both, cache, stream = (
        seconds["writes to disk"] / seconds["ours to disk"], seconds["rows to disk"] / seconds["ours to disk"],
        seconds["writes"] / seconds["ours"], seconds["datasets to disk"] / seconds["ours to disk"],
    )  # fmt: skip
    what = f"`hf`: {options.rows:,} `messages` rows of {options.picture_bytes / 1000:.0f} kB"
    rate = f"{options.rows / seconds['ours to disk']:,.0f} rows/s, {size / seconds['ours to disk']:,.0f} MB/s"
    memory = f"{few / 1e6:.0f} MB and {peak / 1e6:.0f} MB"
    return [
        Row(f"{what}, down to the disk", rate, "", True),
        Row(
            "beside a bare loop that writes the JPEG files, down to the disk",
            _of(disk, size, seconds["writes to disk"]),
            ">= 0.80",
            disk >= 0.8,
        ),
        Row(
            "beside a bare loop over pyarrow that reads the rows and writes the JPEG files, down to the disk",
            _of(both, size, seconds["rows to disk"]),
            ">= 0.80",
            both >= 0.8,
        ),
        Row(
            "writes alone, in the page cache, no disk waited for",
            _of(cache, size, seconds["writes"]),
            ">= 0.40",
            cache >= 0.4,
        ),
        Row(
            "beside a loop over `datasets` that writes the bytes, down to the disk",
            f"{stream:.2f} times its rate",
            ">= 1",
            stream >= 1,
        ),
        Row("memory at 8,000 rows in groups of 4,000", f"{large / 1e6:.0f} MB", "< 500 MB", large < 500e6),
        Row(f"memory at {options.rows // 8:,} and at {options.rows:,} rows", memory, "< 500 MB", peak < 500e6),
    ]


def _of(ratio: float, megabytes: float, seconds: float) -> str:
    return f"{ratio:.2f} of its rate ({megabytes / seconds:,.0f} MB/s)"


def memory_of_rows(work: Path, picture: bytes, count: int, group: int) -> float:
    """The peak memory of `hf` on so many rows in groups of that size."""
    parquet, folder = work / "memory.parquet", work / "memory"
    write_parquet(parquet, picture, count, group)
    words = ["hf", str(parquet), "--output", str(folder / "r.jsonl"), "--check", "none"]
    run = measure(COMMAND, words=words)
    shutil.rmtree(folder)
    parquet.unlink()
    return together(run)


def together(run: dict[str, float]) -> float:
    """The peak memory of `hf` and its processes (one a core, three at most), as if all had theirs at one time."""
    return run["memory"] + min(CORES, 3) * run["below"]


def write_parquet(path: Path, picture: bytes, count: int, group: int = 100) -> None:
    """Rows as the hub has them: messages of parts, one picture each, `group` rows a row group."""
    import pyarrow
    import pyarrow.parquet

    writer: Any = None
    for start in range(0, count, group):
        table = pyarrow.Table.from_pylist(
            [message_row(picture + n.to_bytes(8, "big"), n) for n in range(start, min(start + group, count))]
        )
        writer = writer or pyarrow.parquet.ParquetWriter(path, table.schema, compression="none")
        writer.write_table(table)
    writer.close()


def message_row(picture: bytes, number: int) -> dict[str, Any]:
    """One row of two questions and answers."""
    turns = []
    for turn in range(2):
        parts = [{"type": "text", "text": f"What is thing {turn} of {number} doing there?", "index": None}]
        parts += [{"type": "image", "text": None, "index": 0}] if turn == 0 else []
        turns.append({"role": "user", "content": parts})
        answer = {"type": "text", "text": "It stands by the window and looks out at the street. " * 3, "index": None}
        turns.append({"role": "assistant", "content": [answer]})
    return {"messages": turns, "images": [{"bytes": picture, "path": None}]}


def check(work: Path, options: argparse.Namespace) -> tuple[list[Row], dict[str, Any]]:
    """The check of JPEG pictures beside Pillow's bare loop in as many processes."""
    folder = work / "pictures"
    names = [f"{number}.jpg" for number in range(options.pictures)]
    records = []
    for number, name in enumerate(names):
        noisy_jpeg(folder / name, number)
        turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": f"thing {number}"}]
        records.append({"id": str(number), "image": name, "conversations": turns})
    (work / "check.json").write_text(json.dumps(records))
    values = {"records": str(work / "check.json"), "folder": str(folder), "pictures": len(names)}
    paths = [str(folder / name) for name in names]
    runs: dict[str, list[dict[str, float]]] = {"ours": [], "pillow": []}
    for _ in range(options.rounds):
        runs["pillow"].append(measure(BARE_DECODE, cores=CORES, names=paths))
        runs["ours"].append(measure(CHECK, **values))
    ratio, cpu = (median(runs["pillow"], key) / median(runs["ours"], key) for key in ("seconds", "cpu"))
    rate = len(names) / median(runs["ours"], "seconds")
    what = f"`check`: {len(names):,} JPEG of 640 x 480 on {CORES} cores, beside Pillow's bare loop on the same"
    measured = f"{ratio:.2f} of its pictures/s ({cpu:.2f} by processor time); {rate:,.0f}/s"
    return [Row(what, measured, ">= 0.80", ratio >= 0.8)], {"check": runs}


def million(work: Path, options: argparse.Namespace) -> tuple[list[Row], dict[str, Any]]:
    """A million records in a .jsonl file: opened, and read at random places."""
    path, count = work / "million.jsonl", options.records
    with path.open("w") as stream:
        for number in range(count):
            turns = [
                {"from": "human", "value": f"<image>\nWhat is the hairstyle of person {number} called?"},
                {"from": "gpt", "value": "pony tail"},
            ]
            record = {"id": f"okvqa-{number}", "image": f"COCO_train2014_{number:012d}.jpg", "conversations": turns}
            stream.write(json.dumps({**record, "answers": ["pony tail"] * 10}) + "\n")
    size = path.stat().st_size
    reads = 10_000
    opened = [measure(OPEN, records=str(path), count=count) for _ in range(options.rounds)]
    read = [measure(ACCESS, records=str(path), count=count, reads=reads) for _ in range(options.rounds)]
    each = max(median(read, "seconds") - median(opened, "seconds"), 0) / reads
    memory = max(run["memory"] for run in (*opened, *read))
    what = f"{count:,} records, {size / 1e6:,.0f} MB of JSONL"
    seconds, cpu = median(opened, "seconds"), median(opened, "cpu")
    path.unlink()
    return [
        Row(f"{what}: opened", f"{seconds:.2f} s ({cpu:.2f} s of processor)", "< 3 s", seconds < 3),
        Row(f"{what}: memory of the process", f"{memory / 1e6:.0f} MB", "< 300 MB", memory < 300e6),
        Row(f"{what}: one at a random place", f"{each * 1e6:.0f} µs", "", True),
    ], {"opened": opened, "read": read}


PARTS = {"okvqa": okvqa, "rows": rows, "check": check, "million": million}


def main(argv: Sequence[str] | None = None) -> int:
    """Measure the parts asked for. Exit codes: 0 all that must hold does, 1 something does not, 2 wrong use."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--questions", type=Path, help="OK-VQA's real questions file (default: questions of its shape)")
    parser.add_argument("--rows", type=int, default=8000, help="messages rows (default 8000)")
    parser.add_argument("--picture-bytes", type=int, default=PICTURE_BYTES, help="of a row (default 46,000)")
    parser.add_argument("--pictures", type=int, default=3000, help="pictures of the check (default 3000)")
    parser.add_argument("--records", type=int, default=1_000_000, help="records of the large file (default 1,000,000)")
    parser.add_argument("--work", type=Path, default=ROOT / "build/benchmarks/data_prep", help="folder for its files")
    parser.add_argument("--output", type=Path, default=ROOT / "build/benchmarks/data_prep.json")
    options = parser.parse_args(argv)
    shutil.rmtree(options.work, ignore_errors=True)
    options.work.mkdir(parents=True)
    table: list[Row] = []
    runs: dict[str, Any] = {}
    try:
        for name in options.parts:
            found, raw = PARTS[name](options.work.resolve(), options)
            table += found
            runs |= raw
    finally:
        shutil.rmtree(options.work, ignore_errors=True)
    print("| what | measured | must be |\n|---|---|---|")
    for row in table:
        print(f"| {row.what} | {row.measured} | {row.must}{'' if row.holds else ' MISSED'} |")
    about = (
        f"{time.strftime('%Y-%m-%d')}, {CORES} cores, load average {os.getloadavg()[0]:.1f}, "
        f"Python {platform.python_version()}, Pillow {version('pillow')}, pyarrow {version('pyarrow')}, "
        f"datasets {version('datasets')}, {options.rounds} rounds, medians"
    )
    print(about)
    temporary = options.output.with_suffix(".tmp")
    temporary.write_text(json.dumps({"about": about, "table": table, "runs": runs}, indent=1) + "\n")
    temporary.replace(options.output)
    return int(not all(row.holds for row in table))


if __name__ == "__main__":
    raise SystemExit(main())
