"""Every command of the two command lines beside one input that is not what it should be, and what the command did.

    made = Spoilt("evaluate", "predictions.jsonl", text=b"[" * 9999)
    done = run(made, world, tmp_path)          # Done(code=1, said="error: predictions.jsonl: ...", left=())

A command runs in a forked child in a copy of `world`, a folder of small inputs that every command takes.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.house.command_lines import BEGUN, COMMANDS
from tests.warm import fork

LIMIT = 60
"""Seconds that a command may take."""
UNFINISHED = re.compile(r"(^|/)\.(?!answers-)|\.(part|tmp)$|^made/(model|config|adapter)")
"""Names of what a command that failed must not leave; rows that were dropped leave a whole output, and say so."""


@dataclass(frozen=True)
class Spoilt:
    """A command with one file spoilt (its bytes, or `kind`: a FIFO, a folder, a device, gone), or one flag's value."""

    command: str
    file: str | None = None
    text: bytes = b""
    kind: str = "file"
    flag: str | None = None
    value: str = ""

    def words(self) -> list[str]:
        """The command line."""
        words = COMMANDS[self.command].words.split()
        if self.flag is None:
            return words
        end = words.index(self.flag) if self.flag in words else len(words)
        return [*words[:end], self.flag, self.value, *words[end + 2 :]]


@dataclass(frozen=True)
class Done:
    """What a command did: its exit code (-9: more than LIMIT seconds), all that it said, what it left, and its cost."""

    code: int
    said: str
    left: tuple[str, ...]
    seconds: float
    memory: int

    def fault(self) -> str | None:
        """What is wrong with it, None where nothing is."""
        if self.code not in (0, 1, 2):
            return f"exit code {self.code}"
        for sign in ("Traceback (most", "a fault of "):
            if sign in self.said:
                return sign
        if self.code and not self.said.strip():
            return "said nothing"
        left = [name for name in self.left if self.code == 2 or UNFINISHED.search(name)]
        return f"left {', '.join(left)}" if self.code and left else None


def copied(world: Path, folder: Path) -> None:
    """A copy of the world whose files are links; a file is made anew before it is spoilt."""
    shutil.copytree(world, folder, copy_function=os.link, symlinks=True)


def run(made: Spoilt, world: Path, folder: Path) -> Done:
    """Run a command in a copy of the world."""
    copied(world, folder)
    try:
        if made.file is not None:
            _spoil(folder / made.file, made)
        before = _listing(folder)
        log = folder.with_name(f"{folder.name}.log")
        start = time.monotonic()
        with log.open("w") as stream:
            pid = fork(lambda: _be_command(made, folder), [stream.fileno(), stream.fileno()])
        code, memory = _wait(pid, LIMIT)
        left = sorted(name for name in _listing(folder) - before if not re.search(r"^cache/|debug\.log$", name))
        said = log.read_text(errors="replace")
        return Done(code, said, tuple(left), time.monotonic() - start, memory)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _spoil(file: Path, made: Spoilt) -> None:
    if file.is_file():
        file.unlink()
    if made.kind == "fifo":
        os.mkfifo(file)
    elif made.kind == "folder":
        file.mkdir()
    elif made.kind == "device":
        file.symlink_to("/dev/zero")
    elif made.kind == "file":
        file.write_bytes(made.text)


def _listing(folder: Path) -> set[str]:
    """Files, and folders that hold something hidden; empty folders are left out."""
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}


def _be_command(made: Spoilt, folder: Path) -> int:
    os.setsid()
    os.chdir(folder)
    os.environ.update(XDG_CACHE_HOME=str(folder / "cache"), TMPDIR=str(folder.parent))
    if made.command.startswith("data_prep "):
        from data_prep import __main__ as module

        return module.main(made.words())
    _no_server()
    from llava_finetune.cli import main

    return main(made.words())


def _no_server() -> None:
    """A server that would come up ends at once."""
    from llava_finetune.serve import command

    def listen(*_: Any) -> None:
        raise SystemExit(0)

    command.listen = listen


def _wait(pid: int, limit: float) -> tuple[int, int]:
    """Exit code and largest resident memory in bytes."""
    end = time.monotonic() + limit
    while True:
        done, status, usage = os.wait4(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status), usage.ru_maxrss * 1024
        if time.monotonic() > end:
            os.killpg(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return -9, 0
        time.sleep(0.005)


def places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a JSON value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [at, *(place for key, child in inner for place in places(child, (*at, key)))]


def replaced(value: Any, place: tuple[Any, ...], new: Any) -> Any:
    """A copy of a JSON value with `new` at one place."""
    if not place:
        return new
    out = value.copy()
    out[place[0]] = replaced(value[place[0]], place[1:], new)
    return out


def make_world(folder: Path, model: Path, adapter: Path, hf: Path, train: Callable[[list[str], Path], None]) -> Path:
    """The inputs of every command: three pictures, records, tables, predictions, a model, an adapter, a begun run."""
    from PIL import Image

    (folder / "pictures").mkdir(parents=True)
    (folder / "hub").mkdir()
    for index in range(3):
        Image.new("RGB", (40, 30 + index), (80 * index, 9, 9)).save(folder / "pictures" / f"{index}.png")
        shutil.copyfile(folder / "pictures" / f"{index}.png", folder / "hub" / f"{index}.png")
    _write_records(folder)
    _write_tables(folder)
    shutil.copytree(model, folder / "model")
    config = json.loads((folder / "model" / "config.json").read_text())
    config["mm_vision_tower"] = "model/clip"
    (folder / "model" / "config.json").write_text(json.dumps(config))
    shutil.copytree(adapter, folder / "adapter")
    manifest = json.loads((folder / "adapter" / "llava_finetune.json").read_text())
    (folder / "adapter" / "llava_finetune.json").write_text(json.dumps({**manifest, "base": str(model)}))
    shutil.copytree(hf, folder / "hf")
    words = BEGUN.split()[1:]
    train(words, folder)
    shutil.rmtree(folder / "run" / "checkpoint-2")
    return folder


def _write_records(folder: Path) -> None:
    (folder / "zero.json").write_text(json.dumps({"zero_optimization": {"stage": 2}}))
    rows, predictions = [], []
    for index in range(3):
        turns = [{"from": "human", "value": "<image>\nwhat colour?"}, {"from": "gpt", "value": "red"}]
        rows.append({"id": f"r-{index}", "image": f"{index}.png", "conversations": turns})
        predictions.append(
            {"id": f"r-{index}", "turn": 0, "question": "what colour?", "answer": "red", "reference": "red",
             "image": f"{index}.png", "question_id": index, "answers": ["red"] * 10}
        )  # fmt: skip
    (folder / "records.json").write_text(json.dumps(rows))
    (folder / "more.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "predictions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in predictions))


def _write_tables(folder: Path) -> None:
    import pandas

    rows = [{"image": f"{i}.png", "question": "what colour?", "answer": "red"} for i in range(3)]
    frame = pandas.DataFrame(rows)
    frame.to_csv(folder / "table.csv", index=False)
    frame.to_excel(folder / "table.xlsx", index=False)
    frame.to_parquet(folder / "table.parquet")
    for name in ("table.jsonl", "hub/train.jsonl"):
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "captions.csv").write_text(
        "".join(f"{a},{b}\n" for a, b in [("image", "caption"), *((f"{i}.png", "red") for i in range(3))])
    )
    asked = [{"question_id": i, "image_id": i, "question": "what?"} for i in range(3)]
    answers = [{"answer": "red", "answer_confidence": "yes", "answer_id": n, "raw_answer": "red"} for n in range(1, 11)]
    found = [
        {**one, "answers": answers, "answer_type": "other", "question_type": "what", "confidence": 3} for one in asked
    ]
    (folder / "questions.json").write_text(json.dumps({"questions": asked, "data_subtype": "val2014"}))
    (folder / "annotations.json").write_text(json.dumps({"annotations": found, "data_subtype": "val2014"}))
    images = [{"id": i, "file_name": f"{i}.png", "width": 40, "height": 30 + i} for i in range(3)]
    captions = [{"id": i, "image_id": i, "caption": "red"} for i in range(3)]
    boxes = [{"id": i, "image_id": i, "category_id": 1, "bbox": [1, 1, 9, 9], "area": 81} for i in range(3)]
    (folder / "coco.json").write_text(json.dumps({"images": images, "annotations": captions}))
    (folder / "boxes.json").write_text(
        json.dumps({"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "cat"}]})
    )
