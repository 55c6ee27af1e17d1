"""A run that is stopped, or a disk that is full, leaves the old output whole and nothing half-written."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from data_prep import files
from data_prep.__main__ import main
from data_prep.hf import pictures
from data_prep.records.record import read_records

SLOW = """
import sys, time
import data_prep.converters.table as table
from data_prep.__main__ import _stop, main
real = table.read_rows
def slowly(*arguments):
    for number, row in enumerate(real(*arguments)):
        if number == 3:
            print("half way", flush=True)
            time.sleep(30)
        yield row
table.read_rows = slowly
import signal
signal.signal(signal.SIGTERM, _stop)
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.skipif(os.name == "nt", reason="signals are sent as POSIX knows them")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_converter_leaves_the_old_output_and_nothing_half_written(
    sources: Path, root: Path, number: signal.Signals
) -> None:
    words = ["table", "table.csv", "--image-folder", "photos", "--output", "r.json", "--check", "none"]
    assert main(words) == 0
    before = {path.name: path.read_bytes() for path in sources.iterdir() if path.is_file()}
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW, *words],
        env={**os.environ, "PYTHONPATH": str(root)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "half way\n"
    assert any(path.name.endswith(".part") for path in sources.iterdir()), "it writes beside the old file"
    process.send_signal(number)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "stopped: nothing half-written was left" in error
    assert "Traceback" not in error
    assert {path.name: path.read_bytes() for path in sources.iterdir() if path.is_file()} == before


@pytest.mark.skipif(os.name == "nt", reason="signals are sent as POSIX knows them")
def test_a_check_that_is_stopped_ends_its_processes(tmp_path: Path, root: Path) -> None:
    code = (
        "import data_prep.check.worker as w, time\n"
        "real = w.inspect_picture\n"
        "def slow(folder, name):\n    time.sleep(0.2)\n    return real(folder, name)\n"
        "w.inspect_picture = slow\nw.main()"
    )
    main_code = (
        "import sys, data_prep.check.scan as scan\n"
        f"scan.Worker.__init__.__defaults__ = ((sys.executable, '-c', {code!r}),)\n"
        "from data_prep.__main__ import main\nsys.exit(main(sys.argv[1:]))"
    )
    turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "a"}]
    rows = [{"id": str(n), "image": f"{n}.jpg", "conversations": turns} for n in range(600)]
    (tmp_path / "r.json").write_text(json.dumps(rows))
    words = ["check", str(tmp_path / "r.json"), "--image-folder", str(tmp_path), "--workers", "2"]
    process = subprocess.Popen(
        [sys.executable, "-c", main_code, *words],
        env={**os.environ, "PYTHONPATH": str(root)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        text=True,
    )
    group = process.pid
    while _num_processes(group) < 3:
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, error = process.communicate(timeout=60)
    assert process.returncode == 130, (out, error)
    assert "stopped" in error
    assert _num_processes(group) == 0


def _num_processes(session: int) -> int:
    import psutil

    def belongs(process: psutil.Process) -> bool:
        try:
            return os.getsid(process.pid) == session and process.status() != psutil.STATUS_ZOMBIE
        except (ProcessLookupError, psutil.NoSuchProcess):
            return False

    return sum(belongs(process) for process in psutil.process_iter())


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full to stand for a full disk")
def test_a_full_disk_leaves_the_old_output_of_a_converter(
    sources: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["table", "table.csv", "--image-folder", "photos", "--output", "r.json", "--check", "none"]
    assert main(words) == 0
    before = Path("r.json").read_bytes()
    real = Path.open

    def opened(self: Path, *arguments: Any, **options: Any) -> Any:
        return real(Path("/dev/full") if self.name.endswith(".part") else self, *arguments, **options)

    monkeypatch.setattr(Path, "open", opened)
    assert main(words) == 1
    monkeypatch.undo()
    assert "error: r.json: the disk is full: nothing was written; free some space" in capsys.readouterr().err
    assert (sources / "r.json").read_bytes() == before
    assert len(read_records(sources / "r.json")) == 6
    assert not list(sources.glob("*.part")) and not list(sources.glob(".*.part"))


def test_a_disk_that_fills_while_pictures_are_written_leaves_no_half_picture(
    sources: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = os.write
    written: list[int] = []

    def write(file: int, raw: bytes) -> int:
        if bytes(raw[:2]) != b"\xff\xd8":
            return real(file, raw)
        written.append(real(file, raw if len(written) < 2 else raw[:100]))
        if len(written) == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        return written[-1]

    with monkeypatch.context() as patch:
        patch.setattr(pictures.os, "write", write)
        assert main(["hf", "messages.parquet", "--output", "x/r.json"]) == 1
    assert "the disk is full" in capsys.readouterr().err
    assert not Path("x/r.json").exists()
    left = [path for path in Path("x").rglob("*") if path.is_file()]
    assert {path.suffix for path in left} == {".jpg"}
    originals = {path.read_bytes() for path in Path("photos").iterdir()}
    assert {path.read_bytes() for path in left} < originals


def test_a_disk_that_takes_a_part_of_the_bytes_gets_the_rest(sources: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    with monkeypatch.context() as patch:
        patch.setattr(pictures.os, "write", lambda file, raw: real(file, raw[:100]))
        assert main(["hf", "messages.parquet", "--output", "x/r.json", "--check", "none"]) == 0
    written = {(Path("x/images") / item["image"]).read_bytes() for item in read_records("x/r.json")}
    assert written == {path.read_bytes() for path in Path("photos").iterdir()}


def test_a_very_long_name_in_any_alphabet_is_written(tmp_path: Path) -> None:
    path = tmp_path / ("\u5199" * 80 + ".json")  # 245 bytes of the 255 that a file name may have
    files.write_json(path, {"a": 1})
    assert json.loads(path.read_text()) == {"a": 1}
