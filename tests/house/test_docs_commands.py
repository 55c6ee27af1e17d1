"""The commands of the README and how-tos: launchers are run dry, `plan` is run, the others' flags are held to --help.

Of a script's words only that the script knows them. docs/data.md has its own test, which runs every command.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *(page for page in sorted((ROOT / "docs").glob("*.md")) if page.name != "data.md")]
LAUNCHER = re.compile(r"scripts/(?:finetune_\w+|pretrain|recipes/\w+)\.sh")


def commands(page: Path) -> list[str]:
    """The lines of a page's fenced blocks, continued lines joined, comments and empty lines left out."""
    blocks = re.findall(r"^ *```\w*\n(.*?)^ *```", page.read_text(), re.MULTILINE | re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [line for text in lines if (line := re.sub(r"\s+#.*$|^#.*$", "", text).strip())]


def found(pattern: str) -> list[str]:
    return sorted({line for page in PAGES for line in commands(page) if re.search(pattern, line)})


def run(command: str, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.prefix) / 'bin'}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "HF_HUB_OFFLINE": "1", **variables}
    return subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, env=environment, cwd=folder, timeout=120
    )


@pytest.mark.parametrize("command", found(LAUNCHER.pattern))
def test_a_launchers_line_gives_a_training_command(command: str, tmp_path: Path) -> None:
    (tmp_path / "hosts").write_text("node-0 slots=8\nnode-1 slots=8\n")
    needed = {"MODEL": "liuhaotian/llava-v1.5-7b", "DATA": "train.json", "IMAGES": "images", "OUTPUT": "runs/mine"}
    shown = re.sub(r"\w+=\.\.\. ?|\.\.\. ", "", command)
    if "sbatch" in shown:
        shown = f"bash {LAUNCHER.search(shown)[0]}{shown.split('.sh', 1)[1]}"  # type: ignore[index]
    shown = shown.replace("scripts/", f"{ROOT}/scripts/").replace(" --auto", "")
    done = run(f"{shown} --dry-run", tmp_path, **needed)
    assert done.returncode == 0, done.stderr
    assert "llava_finetune train" in re.sub(r"\s+\\\n\s*", " ", done.stdout), done.stdout
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("command", found(r"^llava-finetune plan"))
def test_a_plan_is_made_from_the_shape_alone(command: str, tmp_path: Path) -> None:
    done = run(re.sub(r" --data \S+", "", command), tmp_path)
    assert done.returncode == 0, done.stderr
    assert "as proposed" in done.stdout


@pytest.mark.parametrize("command", found(r"^(llava-finetune (?!plan)|python -m (data_prep|patches|pytest))"))
def test_a_command_and_its_flags_exist(command: str, tmp_path: Path) -> None:
    for part in command.split(" && "):
        words = part.split()
        size = 2 if words[0] == "llava-finetune" else 3 if words[2] == "pytest" else 4
        done = run(" ".join([*words[:size], "--help"]), ROOT)
        assert done.returncode == 0, done.stderr
        for flag in (word.split("=")[0] for word in words[size:] if word.startswith("-")):
            assert re.search(rf"(?<![\w-]){re.escape(flag)}(?![\w-])", done.stdout), f"{part}: no {flag}"


@pytest.mark.parametrize("command", found(r"^bash scripts/(?!finetune|pretrain|recipes)"))
def test_a_script_exists_and_names_what_it_is_given(command: str) -> None:
    script, *words = command.split()[1:]
    text = (ROOT / script).read_text()
    extras = (ROOT / "setup.py").read_text()
    for word in words:
        assert word in text or f'"{word}"' in extras, f"{command}: {word} is unknown"


def test_the_pages_have_commands() -> None:
    assert len(found(r".")) > 40
