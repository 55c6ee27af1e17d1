"""Files as other tools write them: a picture of photos/, "What is it?" and "a box"; docs/data.md converts each.

write_others(Path("work"))      # work/photos/0.jpg is there; writes factory.json, sharegpt.json, openai.jsonl ...
"""

import base64
import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

CALL = '{"name": "measure", "arguments": {"side": "left"}}'


def talk(user: Any, answer: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": user}, {"role": "assistant", "content": answer}]


def dialogues(picture: str) -> dict[str, Any]:
    """The files of dialogues, by name; `picture` is a picture in base64."""
    text = {"type": "text", "text": "What is it?"}
    address = {"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{picture}"}}
    asked, answered = {"from": "human", "value": "<image>What is it?"}, {"from": "gpt", "value": "a box"}
    source = {"type": "image", "source": {"type": "base64", "media_type": "image/jpeg", "data": picture}}
    tools = [asked, {"from": "function_call", "value": CALL}, {"from": "observation", "value": "9 cm"}, answered]
    calls = [{"id": "1", "type": "function", "function": {"name": "measure", "arguments": '{"side": "left"}'}}]
    spoken = talk([address, text], None)
    spoken[1]["tool_calls"] = calls
    return {
        "factory.json": [{"messages": talk("<image>What is it?", "a box"), "images": ["photos/0.jpg"]}],
        "alpaca.json": [
            {"instruction": "What is it?", "input": "Be brief.", "output": "a box", "images": ["photos/0.jpg"]}
        ],
        "swift.jsonl": [
            {"query": "<image>What is it?", "response": "a box", "images": ["photos/0.jpg"], "history": []}
        ],
        "sharegpt.json": [
            {
                "conversations": tools,
                "system": "Be brief.",
                "tools": '[{"name": "measure"}]',
                "images": ["photos/0.jpg"],
            }
        ],
        "openai.jsonl": [{"messages": [{"role": "system", "content": "Be brief."}, *talk([text, address], "a box")]}],
        "tools.jsonl": [
            {"messages": [*spoken, {"role": "tool", "content": "9 cm"}, {"role": "assistant", "content": "a box"}]}
        ],
        "qwen.json": [{"messages": talk([{"type": "image", "image": "photos/0.jpg"}, text], [{"text": "a box"}])}],
        "claude.jsonl": [{"messages": talk([source, text], [{"type": "text", "text": "a box"}])}],
        "minicpm.json": [{"conversations": talk("<image>\nWhat is it?", "a box"), "image": "photos/0.jpg"}],
        "phi.json": [{"messages": talk("<|image_1|>\nWhat is it?", "a box"), "images": ["photos/0.jpg"]}],
    }


def write_others(folder: Path) -> None:
    """Write every file below `folder`."""
    raw = (folder / "photos/0.jpg").read_bytes()
    for name, rows in dialogues(base64.b64encode(raw).decode()).items():
        lines = name.endswith(".jsonl")
        text = "".join(json.dumps(row) + "\n" for row in rows) if lines else json.dumps(rows, indent=1)
        (folder / name).write_text(text)
    encoded = base64.b64encode(raw).decode()
    (folder / "base64.csv").write_text(f"image,question,answer\n{encoded},What is it?,a box\n")
    (folder / "several.csv").write_text('image,question,answer\n"0.jpg; 1.jpg",Are they alike?,no\n')
    (folder / "german.csv").write_bytes(
        "image;question;answer\r\n0.jpg;Welche Gr\u00f6\u00dfe?;ein K\u00e4fer\r\n".encode("cp1252")
    )
    (folder / "described").mkdir()
    shutil.copy(folder / "photos/0.jpg", folder / "described/0.jpg")
    (folder / "described/0.txt").write_text("a box\n")
    for number, label in enumerate(("rook", "knight")):
        (folder / "labelled" / label).mkdir(parents=True)
        shutil.copy(folder / f"photos/{number}.jpg", folder / "labelled" / label)
    _write_parquet(folder, {"bytes": raw, "path": None})


def _write_parquet(folder: Path, image: dict[str, Any]) -> None:
    choices = {"image": image, "question": "What is it?", "choices": ["a ball", "a box"], "answer": 1, "hint": "Look."}
    languages = {"image": image, "query": {"de": "Was ist das?", "en": "What is it?"}, "answers": ["a box"]}
    for name, row in (("scienceqa", choices), ("docvqa", languages)):
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist([row]), folder / f"{name}.parquet")
