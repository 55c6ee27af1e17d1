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
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.warm import fork

LIMIT = 60
"""Seconds that a command may take."""
TRAIN = (
    "train --model_name_or_path model --data_path records.json --image_folder pictures --output_dir out --max_steps 1 "
    "--version v1 --use_cpu True --dataloader_num_workers 0 --precision fp32 --per_device_train_batch_size 1 "
    "--save_strategy no --report_to none --lora_enable True --lora_r 2 --gradient_checkpointing False"
)
BEGUN = TRAIN.replace("_dir out", "_dir run").replace("_strategy no", "_steps 1").replace("max_steps 1", "max_steps 2")
MODEL = (
    "config.json", "tokenizer_config.json", "tokenizer.model", "generation_config.json", "model.safetensors",
    "clip/config.json", "clip/preprocessor_config.json", "clip/model.safetensors",
)  # fmt: skip
ADAPTER = ("adapter_config.json", "adapter_model.safetensors", "llava_finetune.json", "non_lora_trainables.bin")
HF = (
    "config.json", "preprocessor_config.json", "processor_config.json", "tokenizer_config.json", "tokenizer.json",
    "model.safetensors.index.json", "model-00001-of-00002.safetensors", "chat_template.jinja",
)  # fmt: skip
CHECKPOINT = (
    "checkpoint.json", "trainer_state.json", "optimizer.pt", "scheduler.pt", "rng_state.pth", "position_0.pth",
)  # fmt: skip


UNFINISHED = re.compile(r"(^|/)\.|\.(part|tmp)$|^made/(model|config|adapter)")
"""Names of what a command that failed must not leave; rows that were dropped leave a whole output, and say so."""


@dataclass(frozen=True)
class Command:
    """A command line that works in the world, the files of it that may be spoilt, and flags that take a value."""

    words: str
    files: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()


def _in(folder: str, names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(f"{folder}/{name}" for name in names)


DATA_PREP: Mapping[str, Command] = {
    "okvqa": Command(
        "okvqa --questions questions.json --annotations annotations.json --image-folder pictures --output out.json "
        "--image-name {}.png",
        ("questions.json", "annotations.json", "pictures/1.png"),
        ("--allow-drops", "--seed", "--suffix", "--image-name", "--copy", "--output"),
    ),
    "vqa": Command(
        "vqa --questions questions.json --annotations annotations.json --image-folder pictures --output out.json "
        "--image-name {}.png --answer sampled",
        ("questions.json", "annotations.json"),
        ("--seed", "--answer", "--check"),
    ),
    "captions": Command(
        "captions captions.csv --image-folder pictures --output out.json",
        ("captions.csv", "pictures/1.png"),
        ("--question", "--questions", "--seed", "--encoding", "--image-column", "--max-unpacked", "--sheet"),
    ),
    "captions-template": Command(
        "captions-template pictures --train out.csv", ("pictures/1.png",), ("--test-share", "--seed", "--test")
    ),
    "table csv": Command(
        "table table.csv --image-folder pictures --output out.json",
        ("table.csv",),
        ("--question-column", "--encoding", "--suffix", "--allow-drops", "--max-unpacked", "--copy"),
    ),
    "table jsonl": Command("table table.jsonl --image-folder pictures --output out.json", ("table.jsonl",)),
    "table xlsx": Command("table table.xlsx --image-folder pictures --output out.json", ("table.xlsx",), ("--sheet",)),
    "table parquet": Command("table table.parquet --image-folder pictures --output out.json", ("table.parquet",)),
    "hf": Command(
        "hf hub --output out.json --image-folder made",
        ("hub/train.jsonl", "hub/1.png"),
        ("--split", "--config", "--limit", "--sample", "--seed", "--image-column", "--suffix", "--revision"),
    ),
    "hf parquet": Command(
        "hf table.parquet --output out.json --image-folder pictures", ("table.parquet",), ("--limit",)
    ),
    "heic": Command("heic pictures --output-dir made", ("pictures/1.png",), ("--prefix", "--quality", "--max-pixels")),
    "generate": Command(
        "generate --captions coco.json --boxes boxes.json --image-folder pictures --output out.json "
        "--endpoint http://127.0.0.1:9/v1 --model x",
        ("coco.json", "boxes.json"),
        ("--limit", "--seed", "--temperature", "--max-tokens", "--concurrency", "--endpoint", "--prompts"),
    ),
    "split": Command(
        "split records.json --parts train=0.5 test=0.5 --output-dir made --image-folder pictures",
        ("records.json", "pictures/1.png"),
        ("--parts", "--seed", "--stratify"),
    ),
    "mix": Command(
        "mix records.json=1 more.jsonl=0.5 --output out.json", ("records.json", "more.jsonl"), ("--seed", "--prefix")
    ),
    "check": Command(
        "check records.json --image-folder pictures --workers 1 --cache-dir cache",
        ("records.json", "pictures/1.png"),
        ("--test", "--max-length", "--workers", "--max-pixels", "--fix", "--allow-drops", "--html"),
    ),
    "check model": Command(
        "check records.json --image-folder pictures --workers 1 --cache-dir cache --model model",
        _in("model", MODEL),
        ("--conversation", "--max-length"),
    ),
    "show": Command(
        "show records.json --image-folder pictures --model model --html out.html",
        ("records.json", "pictures/1.png", "model/tokenizer_config.json"),
        ("--count", "--seed", "--records", "--conversation", "--max-length", "--max-pixels"),
    ),
    "push": Command("push records.json me/mine --dry-run made --images pictures", ("records.json",), ("--images",)),
}
LLAVA: Mapping[str, Command] = {
    "train": Command(
        TRAIN,
        ("records.json", "pictures/1.png", *_in("model", MODEL)),
        (
            "--learning_rate", "--lora_r", "--lora_dropout", "--lora_alpha", "--per_device_train_batch_size",
            "--max_steps", "--num_train_epochs", "--warmup_steps", "--seed", "--save_steps", "--logging_steps",
            "--version", "--replay", "--eval_data_path", "--deepspeed", "--resume", "--lora_targets", "--precision",
            "--model_max_length", "--loss_chunk", "--mm_projector_lr", "--bits", "--cache_gb", "--weight_decay",
            "--optim", "--lr_scheduler_type", "--mm_vision_select_layer", "--max_grad_norm", "--init_lora_weights",
        ),
    ),
    "train resumed": Command(
        f"{BEGUN} --resume auto",
        (*_in("run/checkpoint-1", (*CHECKPOINT, *ADAPTER)), "run/log.jsonl", "run/run.json"),
        ("--resume",),
    ),
    "evaluate": Command(
        "evaluate --predictions predictions.jsonl --output made",
        ("predictions.jsonl",),
        ("--limit", "--sample", "--train_data", "--name", "--upload"),
    ),
    "evaluate model": Command(
        "evaluate --model model --data records.json --images pictures --output made --max_new_tokens 2 --limit 1 "
        "--device cpu",
        ("records.json", "pictures/0.png"),
        ("--limit", "--sample", "--batch_size", "--max_new_tokens", "--dtype", "--num_processes", "--max_images"),
    ),
    "merge": Command(
        "merge adapter made --num-records 1",
        _in("adapter", (*ADAPTER, "config.json")),
        ("--num-records", "--answers", "--records", "--base"),
    ),
    "import": Command(
        "import hf made",
        _in("hf", HF),
        ("--conversation", "--dtype", "--image-aspect-ratio"),
    ),
    "export": Command("export model made", _in("model", MODEL), ("--conversation", "--dtype", "--type")),
    "export gguf": Command("export model made --format gguf", ("model/tokenizer.model",), ("--type",)),
    "chat": Command(
        "chat model --device cpu --image pictures/1.png --once what? --max-new-tokens 2",
        ("pictures/1.png", *_in("model", MODEL)),
        ("--temperature", "--top-p", "--max-new-tokens", "--seed", "--max-pixels", "--dtype", "--system", "--image",
         "--bits"),
    ),
    "serve": Command(
        "serve model --device cpu --no-page --no-compare --port 0",
        ("model/config.json", "model/tokenizer_config.json"),
        ("--port", "--host", "--max-batch", "--max-queue", "--max-picture-mb", "--max-pictures", "--grace",
         "--api-key-file", "--allow-remote", "--name", "--user", "--records"),
    ),
    "report": Command(
        "report run --output out.html", _in("run", ("log.jsonl", "run.json", "result.json")), ("--images",)
    ),
    "push": Command("push model me/mine --dry-run", ("model/config.json",)),
    "plan": Command(
        "plan --model model --mode lora --gpus 1x24GB",
        ("model/config.json", "records.json"),
        ("--gpus", "--data", "--global-batch", "--lora_r", "--model_max_length", "--mode", "--vision_tower"),
    ),
    "doctor": Command(
        "doctor --model model --device cpu", _in("model", ("config.json", "model.safetensors")), ("--dtype",)
    ),
    "base": Command(
        "base language-model --output made --wheel table.xlsx", ("table.xlsx",), ("--wheel", "--output")
    ),
}  # fmt: skip
COMMANDS = {**{f"data_prep {name}": one for name, one in DATA_PREP.items()}, **LLAVA}


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
