"""The README's own commands, on tiny models under the real names: every line on the screen is one that we know.

`liuhaotian/llava-v1.5-7b` has `.bin` shards and its tower `openai/clip-vit-large-patch14-336` is a whole CLIP in one
`.bin`, as published; both are folders of these names, since no hub is asked. A line of another library fails the test.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.tiny import HIDDEN, IMAGE_SIZE, PATCH_SIZE, make_tiny_llava
from tests.warm import fork, wait_for, warm_up

ROOT = Path(__file__).resolve().parents[2]
MODEL, TOWER = "liuhaotian/llava-v1.5-7b", "openai/clip-vit-large-patch14-336"
NUMBER = r"[\d.,:e+-]+"
KNOWN = [
    r"# \d+ records a step = .*|# \d+ records? x \d+ epochs? = \d+ steps? of \d+, .* warmup.*|# removed a lock .*",
    r"# DeepSpeed compiles .*",
    r"[A-Z_]+=\S+ \\|python \\|  -m llava_finetune train \\|  --\w+( \S+)*( \\)?",
    r"precision fp32: .*|check \S+: \d+ records, \d+ pictures ok \(.*\)",
    r"\d+ records? x \d+ epochs? = \d+ steps? of \d+, \w+ of them warmup; learning rate .*",
    rf"base \S+: \w+, template \w+, vision tower .*|trainable parameters:|  [\w ]+ +{NUMBER} of +{NUMBER}",
    r"fast LoRA in \d+ layers .*|batches without padding, .*",
    rf"step \d+/\d+  loss {NUMBER}  grad {NUMBER}  lr {NUMBER}  {NUMBER} samples/s .* left",
    r"all \d+ adapters moved, projector moved|saved adapter in runs/mine|report: runs/mine/report.html",
    r"next: llava-finetune evaluate --model runs/mine --data \S+ --images pictures",
]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the README's commands can be typed."""
    import torch
    import transformers

    folder = tmp_path_factory.mktemp("shop")
    tower = folder / TOWER
    vision = {"hidden_size": HIDDEN, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    ids = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    text = {**vision, **ids, "vocab_size": 64, "max_position_embeddings": 16}
    config = transformers.CLIPConfig(
        text_config=text, vision_config={**vision, "image_size": IMAGE_SIZE, "patch_size": PATCH_SIZE}
    )
    make_tiny_llava(folder / MODEL)
    (folder / MODEL / "clip").rename(folder / "clip")
    tower.mkdir(parents=True)
    (tower / "preprocessor_config.json").write_text((folder / "clip" / "preprocessor_config.json").read_text())
    config.save_pretrained(tower)
    torch.save(transformers.CLIPModel(config).state_dict(), tower / "pytorch_model.bin")
    _to_bin_shards(folder / MODEL)
    (folder / "pictures").mkdir()
    rows = []
    for index in range(16):
        colour = ("red", "green", "blue")[index % 3]
        Image.new("RGB", (60, 50 + index), colour).save(folder / "pictures" / f"{index}.jpg")
        turns = [{"from": "human", "value": "<image>\nWhat is it?"}, {"from": "gpt", "value": colour}]
        rows.append({"id": str(index), "image": f"{index}.jpg", "conversations": turns})
    (folder / "records.json").write_text(json.dumps(rows))
    return folder


def _to_bin_shards(folder: Path) -> None:
    """As the published checkpoint: two pytorch_model-*.bin with their index, the tower named by its hub id."""
    import torch
    from safetensors.torch import load_file

    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = [f"pytorch_model-0000{part}-of-00002.bin" for part in (1, 2)]
    place = {key: names[number % 2] for number, key in enumerate(weights)}
    for name in names:
        torch.save({key: value for key, value in weights.items() if place[key] == name}, folder / name)
    size = sum(value.numel() * value.element_size() for value in weights.values())
    index = {"metadata": {"total_size": size}, "weight_map": place}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "mm_vision_tower": TOWER}))


def readme_commands() -> list[str]:
    """The commands about one's own pictures, one a line."""
    text = (ROOT / "README.md").read_text()
    section = text[text.index("## Your own pictures") : text.index("## How-to guides")]
    blocks = re.findall(r"```\n(.*?)```", section, re.S)
    return [line.strip() for block in blocks for line in block.replace("\\\n", " ").splitlines() if line.strip()]


def typed(command: str) -> int:
    """Run one command of the README in this process."""
    words = shlex.split(command.partition("#")[0])
    while "=" in words[0]:
        name, _, value = words.pop(0).partition("=")
        os.environ[name] = value
    if words[:3] == ["python", "-m", "data_prep"]:
        import data_prep.__main__ as prepare

        sys.argv = words[2:]
        return prepare._on_a_clean_screen()
    if words[0] == "llava-finetune":
        from llava_finetune.cli import main

        more = ["--once", "What is it?"] if words[1] == "chat" else []
        return main([*words[1:], *more])
    assert words[:2] == ["bash", "scripts/finetune_lora.sh"], command
    return _launched(words[2:])


def _launched(flags: list[str]) -> int:
    from llava_finetune.cli import main
    from llava_finetune.launching import launch

    text = (ROOT / "scripts" / "finetune_lora.sh").read_text()
    own = shlex.split(text[text.index("launch lora") :].replace("\\\n", " ").replace('"$@"', ""))[1:]
    os.environ |= {"DEEPSPEED_CONFIG": "none", "LAUNCH_CHECKS": "off", "NUM_GPUS": "1"}
    launch.run_until_it_fits = lambda command, *_: main(list(command[3:]))  # type: ignore[assignment]
    return launch.main([*own, *flags])


@pytest.fixture(scope="module")
def said(shop: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, str]]:
    """Exit code and screen of every command, in the README's order."""
    import llava_finetune.evaluation.evaluate
    import llava_finetune.training.train  # noqa: F401

    warm_up()
    cache = tmp_path_factory.mktemp("cache")
    found: dict[str, tuple[int, str]] = {}

    def child(command: str) -> Any:
        def run() -> int:
            os.chdir(shop)
            os.environ |= {"DS_ACCELERATOR": "cpu", "LLAVA_FINETUNE_CACHE": str(cache), "HF_HUB_OFFLINE": "1"}
            return typed(command)

        return run

    for command in readme_commands():
        with tempfile.TemporaryFile("w+") as screen:
            code = wait_for(fork(child(command), [screen.fileno(), screen.fileno()]), seconds=600)
            screen.seek(0)
            found[command] = (code, screen.read())
    return found


def test_every_command_of_the_readme_ends_well(said: dict[str, tuple[int, str]]) -> None:
    assert len(said) >= 7
    assert {command: (code, text[-900:]) for command, (code, text) in said.items() if code} == {}


def test_training_shows_lines_that_we_know(said: dict[str, tuple[int, str]], shop: Path) -> None:
    command = next(command for command in said if "finetune_lora" in command)
    pattern = re.compile("|".join(f"(?:{one})" for one in KNOWN))
    strange = [line for line in said[command][1].splitlines() if line.strip() and not pattern.fullmatch(line)]
    assert strange == []
    assert (shop / "runs" / "mine" / "debug.log").stat().st_size > 0


# What libraries are known to say, in whatever command: none of it reaches the screen.
NOISE = (
    "Warning", "warnings.warn", "UNEXPECTED", "MISSING", "max_new_tokens", "non_blocking", "it/s]", "gemm_4bit",
    "torchvision", "[transformers]", "[INFO]", "real_accelerator", "Traceback", "deprecated", "DataLoader",
)  # fmt: skip


def test_no_command_shows_what_libraries_say(said: dict[str, tuple[int, str]]) -> None:
    found = {
        command: [line for line in text.splitlines() if any(word in line for word in NOISE)]
        for command, (_, text) in said.items()
    }
    assert {command: lines for command, lines in found.items() if lines} == {}
