"""The screen is ours: what other libraries write goes to the debug log, and to the screen with --debug alone."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import types
from pathlib import Path

import pytest

from llava_finetune import screen
from llava_finetune.launching.launcher_lines import LauncherLines

ROOT = Path(__file__).resolve().parents[2]
LIBRARY = """
import logging, sys, warnings
def speak():
    print("a library prints")
    print("and on stderr", file=sys.stderr)
    warnings.warn("a library warns", FutureWarning)
    handler = logging.StreamHandler()
    logging.getLogger("lib").addHandler(handler)
    logging.getLogger("lib").warning("a library logs")
def ask(parser): return parser.parse_args(["--help"])
"""


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    module = types.ModuleType("somebodys_library")
    exec(LIBRARY, module.__dict__)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return module


def test_a_librarys_lines_go_to_the_log_and_ours_to_the_screen(
    library: types.ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with screen.routed("train"), pytest.warns(FutureWarning):
        print("ours")
        library.speak()
        screen.debug_to(tmp_path / "run" / "debug.log")
        library.speak()
        print("ours too", file=sys.stderr)
    said = capsys.readouterr()
    assert (said.out, said.err) == ("ours\n", "ours too\n")
    log = (tmp_path / "run" / "debug.log").read_text()
    assert log.count("a library prints") == log.count("and on stderr") == 2 and "a library logs" in log


def test_debug_shows_them_too(library: types.ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    with screen.routed("train", debug=True), pytest.warns(FutureWarning):
        library.speak()
    assert "a library prints" in capsys.readouterr().out


def test_a_command_without_a_folder_leaves_its_log_in_the_cache(
    library: types.ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLAVA_FINETUNE_CACHE", str(tmp_path))
    for _ in range(2):
        with screen.routed("merge"), pytest.warns(FutureWarning):
            library.speak()
    assert (tmp_path / "debug" / "merge.log").read_text().count("a library prints") == 1
    before = sys.stdout
    with screen.routed("merge"):
        print("ours alone leaves no file")
    assert sys.stdout is before


def test_help_that_a_library_asks_for_is_shown(library: types.ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    import argparse

    with screen.routed("train"), pytest.raises(SystemExit):
        library.ask(argparse.ArgumentParser(prog="llava-finetune train"))
    assert capsys.readouterr().out.startswith("usage: llava-finetune train")


def test_native_output_goes_to_the_log_and_a_bug_keeps_its_traceback(tmp_path: Path) -> None:
    code = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from llava_finetune import screen\n"
        "with screen.routed('train'):\n"
        f"    screen.debug_to(Path({str(tmp_path / 'debug.log')!r}), native=True)\n"
        "    os.write(1, b'native\\n'); os.write(2, b'native too\\n')\n"
        "    print('ours', flush=True)\n"
        "    raise RuntimeError('a bug')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(screen.__file__).parents[1]
    )
    assert done.stdout == "ours\n"
    assert done.stderr.startswith("Traceback") and done.stderr.endswith("RuntimeError: a bug\n")
    assert (tmp_path / "debug.log").read_text() == "native\nnative too\n"


def test_a_launchers_own_lines_go_to_the_runs_log(tmp_path: Path) -> None:
    shown = io.BytesIO()
    lines = LauncherLines(tmp_path / "debug.log", shown)
    own = [
        b"[2026-11-30 05:29:58,450] [WARNING] [runner.py:214:fetch_hostfile] Unable to find hostfile\n",
        b"[2026-11-30 05:30:16,755] [INFO] [launch.py:152:main] WORLD INFO DICT: {'localhost': [0, 1]}\n",
        b"W1130 05:30:16.755000 4711 torch/distributed/run.py:793] \n",
        b"*****************************************\n",
        b"[Gloo] Rank 0 is connected to 1 peer ranks.\n",
    ]
    ours = [
        b"step 1/3  loss 5.9967\n",
        b"[rank 0] error: no such file\n",
        b"Traceback (most recent call last):\n",
        b"  x\n",
    ]
    for line in [*own, *ours]:
        lines.feed(line)
    assert shown.getvalue() == b"".join(ours)
    assert (tmp_path / "debug.log").read_bytes() == b"".join(own)


def test_the_launchers_traceback_after_a_ctrl_c_is_no_news(tmp_path: Path) -> None:
    shown = io.BytesIO()
    lines = LauncherLines(tmp_path / "debug.log", shown)
    lines.is_stopping = True
    for line in (b"Traceback (most recent call last):\n", b'  File "runner.py"\n', b"KeyboardInterrupt\n", b"saved\n"):
        lines.feed(line)
    assert shown.getvalue() == b"saved\n"


class Closed(io.BytesIO):
    """A terminal that was closed, or the pipe to a reader that left."""

    def write(self, _: object) -> int:
        raise BrokenPipeError


def test_a_screen_that_is_gone_stops_no_run_and_its_lines_go_to_the_log(tmp_path: Path) -> None:
    """A reader that dies would leave the ranks waiting for a full pipe, for ever."""
    for log in (tmp_path / "debug.log", None):
        lines = LauncherLines(log, Closed())
        for line in (b"step 1/3  loss 5.9967\n", b"step 2/3  loss 5.1\n"):
            lines.feed(line)
    assert (tmp_path / "debug.log").read_bytes() == b"step 1/3  loss 5.9967\nstep 2/3  loss 5.1\n"


class ClosedText(Closed):
    """The same as a text stream."""

    def flush(self) -> None:
        raise BrokenPipeError


@pytest.mark.parametrize("lasting", [True, False], ids=["a training", "a table for head"])
def test_a_training_outlives_its_screen(lasting: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = ClosedText()
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, gone)
    with screen.routed("train"):
        screen.debug_to(tmp_path / "debug.log", native=lasting)
        if not lasting:
            with pytest.raises(BrokenPipeError):
                print("step 1", flush=True)
            return
        print("step 1", flush=True)
        print("step 2", flush=True, file=sys.stderr)
    assert "step 1" in (tmp_path / "debug.log").read_text() and "step 2" in (tmp_path / "debug.log").read_text()


@pytest.mark.parametrize("debug", ["False", "True"])
def test_every_line_of_a_screen_that_is_gone_is_in_the_log(debug: str, tmp_path: Path) -> None:
    code = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from llava_finetune import screen\n"
        f"with screen.routed('train', debug={debug}):\n"
        f"    screen.debug_to(Path({str(tmp_path / 'debug.log')!r}), native=True)\n"
        "    print('seen', flush=True)\n"
        "    os.write(int(sys.argv[1]), b'x')\n"
        "    sys.stdin.readline()\n"
        "    for number in range(3): print('step', number)\n"
        "    print('and', 'once more', flush=True)\n"
    )
    read, write = os.pipe()
    with subprocess.Popen(
        [sys.executable, "-c", code, str(write)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT, text=True, pass_fds=[write],
    ) as process:  # fmt: skip
        assert process.stdout is not None and process.stdin is not None
        assert os.read(read, 1) == b"x" and process.stdout.readline() == "seen\n"
        process.stdout.close()
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.wait(30) == 0
    for end in (read, write):
        os.close(end)
    assert (tmp_path / "debug.log").read_text() == "step 0\nstep 1\nstep 2\nand once more\n"


def test_a_name_that_is_no_text_is_printed_all_the_same() -> None:
    code = "from llava_finetune import screen\nwith screen.routed('report'): print('runs/\\udcff')\n"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, cwd=ROOT, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"runs/\\udcff\n", b"")


def test_a_cache_that_cannot_be_written_costs_the_log_alone(
    library: types.ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLAVA_FINETUNE_CACHE", "/dev/null/x")
    with screen.routed("merge"), pytest.warns(FutureWarning):
        library.speak()


def test_a_pipe_in_the_place_of_the_log_is_not_waited_for(library: types.ModuleType, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "debug.log")
    with screen.routed("train"), pytest.warns(FutureWarning):
        screen.debug_to(tmp_path / "debug.log")
        library.speak()
    LauncherLines(tmp_path / "debug.log", io.BytesIO()).feed(b"[Gloo] Rank 0 is connected to 1 peer ranks.\n")
