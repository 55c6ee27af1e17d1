"""Generated garbage in every input of every command: a line that says what is wrong, or an answer, and nothing left.

Of each command one file is spoilt (another JSON tree, one value replaced, cut off, bytes changed, a FIFO, a folder, a
device, gone) or one flag gets a value that it does not expect.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.house.command_lines import COMMANDS, DATA_PREP, LLAVA
from tests.house.garbage import Spoilt, make_world, places, replaced, run
from tests.warm import warm_up

NUM_DATA_PREP, NUM_LLAVA = 150, 60
"""Examples of each command line, the same ones every time."""
ODD = [
    None, True, 0, -1, 10**9, 2**63, 2**70, 1e300, 1e-320, float("nan"), float("inf"), "", "64", "\ud800", "a\0b",
    "{0}%s{x!r}", "x" * 5000, "1" * 400, "../../etc/passwd", "/dev/zero", "http://127.0.0.1:1/x.png", [], {}, [[]],
]  # fmt: skip
WORDS = [
    "-1", "0", "0.5", "nan", "inf", "-inf", "1e999", "1e-320", "9" * 30, "2147483648", "", " ", "-", "x=1", "%s{x!r}",
    "../../x", "/dev/zero", "/nonexistent/x", "pictures", "a" * 5000, "[]", "None", "\U0001f4a5", "\udc80", "a\nb",
]  # fmt: skip
BYTES = [
    b"", b"\0" * 100, b"[" * 100_000, b'{"a":' * 100_000, b"1" * 5000, b"null", b'"\\ud800"', b"NaN", b"\xff", b"[]",
    b"{}", b"[{}]", b"[null]", b"PK\x03\x04", b"\x80\x04.", b"\n\n\n", b"a,b\n" * 3, b",,,,\n" * 3,
]  # fmt: skip
VALUES = st.sampled_from(ODD) | st.integers() | st.floats() | st.text(max_size=12)
TREES = st.recursive(
    VALUES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)


@pytest.fixture(scope="session")
def world(family: Any, adapter: Path, exported: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The inputs of every command, and all that the commands import."""
    import importlib

    from data_prep.__main__ import KINDS
    from llava_finetune.cli import COMMANDS as OURS
    from tests.training.forked import train

    warm_up()
    for module in [*(module for module, _ in KINDS.values()), *(command.module for command in OURS.values())]:
        importlib.import_module(module)
    folder = tmp_path_factory.mktemp("garbage")

    def begin(words: list[str], where: Path) -> None:
        before = Path.cwd()
        os.chdir(where)
        try:
            code, text = train(words, folder / "out")
        finally:
            os.chdir(before)
        assert code == 0, text

    return make_world(folder / "world", family("llava-1.5"), adapter, exported("llava-1.5"), begin)


@pytest.fixture(scope="module")
def numbers() -> Iterator[int]:
    return itertools.count()


@st.composite
def spoilt(draw: Any, names: list[str], world: Path) -> Spoilt:
    """One command with one thing wrong."""
    name = draw(st.sampled_from(names))
    command = COMMANDS[name]
    if command.flags and (not command.files or draw(st.integers(0, 9)) < 4):
        value = draw(st.sampled_from(WORDS) | st.text(st.characters(exclude_characters="\0"), max_size=12))
        return Spoilt(name, flag=draw(st.sampled_from(command.flags)), value=value)
    file = draw(st.sampled_from(command.files))
    raw = (world / file).read_bytes()
    match draw(st.sampled_from(["kind", "cut", "changed", "bytes", "tree", "value", "value", "value"])):
        case "kind":
            return Spoilt(name, file, kind=draw(st.sampled_from(["fifo", "folder", "device", "gone"])))
        case "cut":
            return Spoilt(name, file, raw[: draw(st.integers(0, len(raw)))])
        case "changed":
            changed = bytearray(raw)
            for place in draw(st.lists(st.integers(0, len(raw) - 1), min_size=1, max_size=20)):
                changed[place] = draw(st.integers(0, 255))
            return Spoilt(name, file, bytes(changed))
        case "tree":
            return Spoilt(name, file, json.dumps(draw(TREES)).encode())
        case "value" if file.endswith((".json", ".jsonl")):
            return Spoilt(name, file, _with_another_value(draw, file, raw))
    return Spoilt(name, file, draw(st.sampled_from(BYTES) | st.binary(max_size=40)))


def _with_another_value(draw: Any, file: str, raw: bytes) -> bytes:
    """A document with one value of it replaced; of JSONL, in one of its lines."""
    lines = raw.splitlines() if file.endswith(".jsonl") else [raw]
    number = draw(st.integers(0, len(lines) - 1))
    value = json.loads(lines[number])
    lines[number] = json.dumps(replaced(value, draw(st.sampled_from(places(value))), draw(TREES))).encode()
    return b"\n".join(lines)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("line", "count"), [(DATA_PREP, NUM_DATA_PREP), (LLAVA, NUM_LLAVA)], ids=["data_prep", "llava"]
)
def test_garbage_is_told_in_words_or_used_and_leaves_nothing(
    line: dict[str, Any], count: int, world: Path, tmp_path: Path, numbers: Iterator[int]
) -> None:
    names = [name for name in COMMANDS if name in line or name.removeprefix("data_prep ") in line]

    @settings(
        max_examples=count, deadline=None, derandomize=True, database=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(made=spoilt(names, world))
    def try_one(made: Spoilt) -> None:
        done = run(made, world, tmp_path / str(next(numbers)))
        assert done.fault() is None, f"{done.fault()}: {made}\n{done.said[-1500:]}"

    try_one()


def _boxes(category: Any, width: Any = 40, wanted: Any = 1) -> bytes:
    images = [{"id": 1, "file_name": "1.png", "width": width, "height": 30}]
    boxes = [{"image_id": 1, "category_id": wanted, "bbox": [1, 1, 2, float("nan")]}]
    return json.dumps({"images": images, "annotations": boxes, "categories": [category]}).encode()


CAT = {"id": 1, "name": "cat"}
MENDED = [
    (Spoilt("data_prep generate", "boxes.json", _boxes(1)), 'under "categories": [0]: expected an object, found 1'),
    (
        Spoilt("data_prep generate", "boxes.json", _boxes(CAT, "x")),
        'width: expected a whole number, found a string "x"',
    ),
    (Spoilt("data_prep generate", "boxes.json", _boxes(CAT, wanted=[])), 'category [] is not under "categories"'),
    (Spoilt("data_prep generate", "boxes.json", _boxes(CAT)), "a box needs a label, a width and a height above 0"),
    (Spoilt("data_prep table csv", flag="--encoding", value="hex"), "no encoding 'hex'; there are utf-8"),
    (Spoilt("data_prep table csv", flag="--encoding", value="punycode"), "no encoding 'punycode'"),
    (Spoilt("data_prep table csv", flag="--encoding", value="\udc80"), "no encoding"),
    (Spoilt("data_prep check", flag="--html", value=""), "expected a path, found nothing"),
    (Spoilt("data_prep generate", flag="--output", value="."), "is no name of a file"),
    (Spoilt("data_prep check", flag="--fix", value="/dev/zero"), "/dev/zero: is no regular file and would be replaced"),
    (Spoilt("data_prep heic", flag="--prefix", value="/dev/zero"), "expected the beginning of a file's name"),
    (Spoilt("serve", flag="--api-key-file", value="pictures"), "pictures: is a folder"),
    (Spoilt("serve", flag="--api-key-file", value="/dev/zero"), "/dev/zero: is a device"),
    (Spoilt("serve", flag="--api-key-file", value="table.xlsx"), "a key is one word of ASCII characters"),
    (Spoilt("serve", flag="--port", value="70000"), "expected a whole number from 0 to 65535"),
    (Spoilt("serve", flag="--grace", value="nan"), "expected a number from 0 to 86400"),
    (Spoilt("train", "model/model.safetensors", kind="fifo"), "model.safetensors: is a FIFO"),
    (Spoilt("import", "hf/chat_template.jinja", b"\xeb"), "hf: its tokenizer or chat template cannot be read"),
    (
        Spoilt("data_prep push", "records.json", b'[{"id": 7, "conversations": [{"from": []}]}]'),
        'record "7": conversations',
    ),
    (
        Spoilt("data_prep push", "records.json", b'[{"id": 7, "x": "\\ud800", "conversations": []}]'),
        "half of a surrogate",
    ),
    (Spoilt("data_prep push", "pictures/1.png", kind="fifo"), "not a file but a pipe, a socket or a device"),
    (Spoilt("merge", "adapter/non_lora_trainables.bin", b"[]"), "no file of tensors can be read from it"),
    (Spoilt("chat", flag="--once", value="\ud800"), "a message holds half of a surrogate pair (character 1)"),
    (Spoilt("chat", flag="--once", value="x" * 3_000_000), "the messages hold 3,000,000 characters"),
    (Spoilt("chat", flag="--base", value="gone"), "model is a whole model, which needs no base"),
    (
        Spoilt("chat", "model/clip/preprocessor_config.json", b'{"image_mean": [NaN, 0.5, 0.5]}'),
        "image_mean[0]: expected a number of at least -1000",
    ),
    (
        Spoilt("chat", "model/clip/preprocessor_config.json", b'{"do_center_crop": true, "crop_size": null}'),
        "preprocessor_config.json: do_center_crop is true, and crop_size is null",
    ),
    (
        Spoilt("chat", "model/clip/preprocessor_config.json", b'{"image_std": [1, 1, 1, 1]}'),
        "image_std: expected a list of length of at most 3",
    ),
    (Spoilt("train", flag="--deepspeed", value="zero.json"), "DeepSpeed needs a launcher; start with"),
    (
        Spoilt("plan", "records.json", b'[{"id": 7, "conversations": "x"}]'),
        'record "7": conversations: expected a list',
    ),
    (Spoilt("evaluate", flag="--name", value="a/b"), "--name 'a/b' becomes a part of a file's name: expected"),
    (Spoilt("evaluate", flag="--output", value="records.json"), "records.json: records.json is no folder"),
    (Spoilt("evaluate", flag="--output", value=""), "expected a path, found nothing (a variable that is not set?)"),
    (Spoilt("evaluate", flag="--upload", value="/dev/zero"), "/dev/zero: is a device"),
    (Spoilt("chat", "model/tokenizer.model", b"\0" * 100), "tokenizer.model: is no SentencePiece model"),
    (Spoilt("chat", flag="--device", value="meta"), "--device meta: holds no numbers"),
    (Spoilt("train", flag="--attn_implementation", value="fast"), "--attn_implementation fast: expected auto, sdpa"),
    (
        Spoilt("merge", "adapter/run.json", b'{"arguments": {"eval_data_path": 5}}'),
        "eval_data_path: expected a string, found 5",
    ),
    (Spoilt("plan", flag="--gpus", value="9" * 17 + "x24GB"), "expected NUMBERxSIZE"),
    (Spoilt("plan", flag="--gpus", value="1x" + "9" * 400 + "GB"), "expected NUMBERxSIZE"),
]


@pytest.mark.parametrize(("made", "words"), MENDED, ids=[f"{made.command} {made.flag}" for made, _ in MENDED])
def test_what_was_garbage_once_is_told_with_its_place(made: Spoilt, words: str, world: Path, tmp_path: Path) -> None:
    done = run(made, world, tmp_path / "run")
    assert done.code in (1, 2) and done.fault() is None and words in done.said, done.said[-1500:]


def test_a_damaged_row_of_the_log_is_dropped_by_a_resume(world: Path, tmp_path: Path) -> None:
    rows = (world / "run" / "log.jsonl").read_bytes()
    odd = [b'{"step": Infinity}', b"[" * 9999, b'{"step": ' + b"1" * 5000 + b"}", b'{"step": "1"}', b"5", b"\xff"]
    done = run(Spoilt("train resumed", "run/log.jsonl", rows + b"\n".join(odd) + b"\n"), world, tmp_path / "run")
    assert (done.code, done.fault()) == (0, None), done.said[-1500:]


@pytest.mark.parametrize("name", COMMANDS)
def test_the_commands_work_before_anything_is_spoilt(name: str, world: Path, tmp_path: Path) -> None:
    """Without this the test above could look at refusals of something else."""
    done = run(Spoilt(name), world, tmp_path / "run")
    assert (done.code, done.fault()) == (NOT_DONE.get(name, 0), None), done.said[-1500:]


NOT_DONE = {"base": 1}
"""What cannot be done here: the table is no wheel."""
