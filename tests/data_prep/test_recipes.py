"""The data lines of the recipes are commands that this project understands, and make what the recipe reads."""

import re
import shlex
from pathlib import Path

import pytest

from data_prep.__main__ import KINDS, main
from data_prep.converters import vqa
from data_prep.hf import command as hf

LINE = re.compile(r"^#\s+Data\s+(.*)$|^#\s{5,}(python -m data_prep .*)$", re.M)
PARSERS = {"hf": hf.build_parser, "okvqa": lambda: vqa.build_parser("okvqa"), "vqa": lambda: vqa.build_parser("vqa")}


def data_commands(root: Path) -> list[tuple[str, list[str]]]:
    """(recipe, words after `python -m data_prep`) of every data line; words end where the remark begins."""
    found = []
    for recipe in sorted((root / "scripts/recipes").glob("*.sh")):
        for match in LINE.finditer(recipe.read_text(encoding="utf-8")):
            line = match.group(1) or match.group(2)
            if "python -m data_prep " in line:
                command = re.split(r"\s{3,}\(|\s{3,}", line.split("python -m data_prep ")[1])[0]
                found.append((recipe.name, shlex.split(command)))
    return found


def test_the_data_line_of_every_recipe_is_a_real_command(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    commands = data_commands(root)
    assert len(commands) >= 4
    for recipe, (kind, *words) in commands:
        assert kind in KINDS, recipe
        if "--help" in words:
            with pytest.raises(SystemExit) as ended:
                main([kind, *words])
            assert ended.value.code == 0, recipe
            continue
        arguments = PARSERS[kind]().parse_args(words)
        assert arguments.output.suffix in {".json", ".jsonl"}, f"{recipe}: --output {arguments.output} names no file"
        text = (root / "scripts/recipes" / recipe).read_text(encoding="utf-8")
        assert f"{arguments.output}}}" in text, f"{recipe} does not read {arguments.output}"
        images = getattr(arguments, "image_folder", None) or arguments.output.parent / "images"
        assert f"{images}}}" in text, f"{recipe} does not read {images}"
    capsys.readouterr()
