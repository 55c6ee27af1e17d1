"""The llava-finetune command: quick, lazy, and errors as one message."""

import errno
import importlib.util
import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from data_prep.last_resort import fault_of_ours
from llava_finetune import cli, errors
from llava_finetune.errors import UsageError, UserError

ROOT = Path(__file__).resolve().parents[2]


def run_python(*arguments: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    """This Python with a bare environment, in the checkout."""
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), **variables}
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, env=environment, cwd=ROOT, timeout=60
    )


def make_command(folder: Path, body: str) -> dict[str, str]:
    """A module `failing` whose main has this body, importable through the returned environment."""
    (folder / "failing.py").write_text(
        f"import os, time\nfrom llava_finetune.errors import *\ndef main(argv):\n    {body}\n"
    )
    return {"PYTHONPATH": f"{folder}:{ROOT}"}


START = "from llava_finetune.cli import run_command; import sys; sys.exit(run_command('failing', [], debug={debug}))"


def test_help_imports_no_heavy_package() -> None:
    code = (
        "import sys; from llava_finetune.cli import main; main(['--help']);"
        "print([name for name in ('torch', 'transformers', 'deepspeed', 'PIL', 'numpy') if name in sys.modules])"
    )
    result = run_python("-c", code)
    assert result.stdout.endswith("[]\n"), result.stdout + result.stderr


def test_help_takes_a_third_of_a_second_at_most() -> None:
    # Processor time, because a busy machine makes any process wait.
    times = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert run_python("-m", "llava_finetune", "--help").returncode == 0
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(times) < 0.3


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    text = capsys.readouterr().out
    for name, command in cli.COMMANDS.items():
        assert f"  {name} " in text and command.summary in text


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_has_a_module(name: str) -> None:
    assert importlib.util.find_spec(cli.COMMANDS[name].module) is not None


def test_no_command_is_wrong_use(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 2


def test_an_unknown_command_lists_the_known(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["tune"]) == 2
    assert capsys.readouterr().err.startswith("llava-finetune: no command 'tune'; commands: train, evaluate, merge")


@pytest.mark.parametrize(("error", "code"), [(UserError, 1), (UsageError, 2)])
def test_an_error_is_its_message_and_exit_code(error: type[UserError], code: int, tmp_path: Path) -> None:
    environment = make_command(tmp_path, f"raise {error.__name__}('a.json: no records; give another file')")
    result = run_python("-c", START.format(debug=False), **environment)
    assert (result.returncode, result.stderr) == (code, "error: a.json: no records; give another file\n")


def test_a_missing_file_is_a_message(tmp_path: Path) -> None:
    result = run_python("-c", START.format(debug=False), **make_command(tmp_path, "open('gone.json')"))
    assert result.returncode == 1
    assert result.stderr == "error: gone.json: no such file or directory; name one that is there\n"


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    result = run_python("-c", START.format(debug=True), **make_command(tmp_path, "raise UserError('bad')"))
    assert result.stderr.startswith("Traceback") and result.returncode == 1


def test_a_bug_is_one_line_that_names_a_file_with_its_traceback(tmp_path: Path) -> None:
    environment = make_command(tmp_path, "return 1 / 0")
    result = run_python("-c", START.format(debug=False), **environment, TMPDIR=str(tmp_path))
    assert result.returncode == 1
    assert result.stderr.startswith("error: a fault of llava-finetune's own (ZeroDivisionError: division by zero)")
    assert result.stderr.count("\n") == 1 and "SECURITY.md" in result.stderr
    (details,) = tmp_path.glob("llava-finetune-fault-*.txt")
    assert str(details) in result.stderr
    assert "Traceback" in details.read_text() and "command: failing" in details.read_text()
    assert details.stat().st_mode & 0o077 == 0


WITHOUT = "import sys; sys.modules |= dict.fromkeys({names!r}); from llava_finetune.cli import main; sys.exit(main())"


@pytest.mark.parametrize(
    ("command", "remedy"),
    [
        (("serve", "model"), "prometheus_client, gradio missing: pip install -c constraints.txt -e '.[serve]'"),
        (("serve", "model", "--no-page"), "prometheus_client missing: pip install -c constraints.txt -e '.[serve]'"),
        (("studio", "runs"), "prometheus_client missing: pip install -c constraints.txt -e '.[serve]'"),
    ],
)
def test_a_package_that_is_not_installed_is_named_with_what_installs_it(
    tmp_path: Path, command: tuple[str, ...], remedy: str
) -> None:
    names = ["starlette", "fastapi", "uvicorn", "prometheus_client", "gradio"]
    result = run_python("-c", WITHOUT.format(names=names), *command, TMPDIR=str(tmp_path))
    assert result.returncode == 1 and result.stderr.count("\n") == 1
    assert result.stderr.startswith("error: ") and remedy in result.stderr
    assert not list(tmp_path.iterdir())


def test_any_other_package_that_is_missing_is_not_called_a_fault_of_ours(tmp_path: Path) -> None:
    result = run_python("-c", START.format(debug=False), **make_command(tmp_path, "import gone.deeper"))
    assert (result.returncode, result.stderr.count("\n")) == (1, 1)
    assert result.stderr.startswith("error: no package gone for ") and "bash scripts/setup.sh" in result.stderr


def test_memory_that_ran_out_is_not_called_a_fault_of_ours(tmp_path: Path) -> None:
    result = run_python("-c", START.format(debug=False), **make_command(tmp_path, "raise MemoryError"))
    assert (result.returncode, result.stderr.count("\n")) == (1, 1)
    assert result.stderr.startswith("error: memory ran out (MemoryError)")


class OutOfMemoryError(RuntimeError):
    """As torch's, which is no MemoryError."""


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "memory ran out (OutOfMemoryError: CUDA"),
        (RuntimeError("[enforce fail] . DefaultCPUAllocator: can't allocate memory"), "memory ran out (RuntimeError"),
        (OSError(errno.ENOSPC, "No space left on device"), "the disk is full (OSError: [Errno 28]"),
        (OSError(errno.EMFILE, "Too many open files"), "too many files are open (OSError"),
        (OSError(errno.EIO, "Input/output error"), "a fault of llava-finetune's own"),
    ],
)
def test_what_the_machine_has_no_more_of_is_named(error: Exception, said: str) -> None:
    assert fault_of_ours(error, ["x"]).startswith(f"error: {said}")


def test_debug_is_taken_from_anywhere_before_a_double_dash() -> None:
    assert cli.take_debug(["a", "--debug", "--", "--debug"]) == (True, ["a", "--", "--debug"])


def test_a_reader_that_leaves_is_no_error(tmp_path: Path) -> None:
    environment = make_command(tmp_path, "[print('x' * 1000, flush=True) for _ in range(10000)]; return 0")
    command = f'{sys.executable} -c "{START.format(debug=False)}" | head -n 1'
    result = subprocess.run(["bash", "-c", command], capture_output=True, text=True, env=environment, timeout=60)
    assert result.stderr == ""


def test_the_first_rank_that_fails_speaks_and_the_others_are_brief(tmp_path: Path) -> None:
    failure = tmp_path / "failure.json"
    environment = make_command(
        tmp_path,
        "raise UserError('record 7: no picture') if os.environ['RANK'] == '1' "
        "else RuntimeError('connection closed by peer')",
    )
    said = {}
    for rank in ("0", "1"):  # an echo is no first failure, whoever comes first
        ranks = {"RANK": rank, "LOCAL_RANK": rank, errors.FAILURE_VARIABLE: str(failure)}
        result = run_python("-c", START.format(debug=False), **environment, **ranks)
        assert result.returncode == 1
        said[rank] = result.stderr
    assert said["1"] == "", "the launcher says it, last of all"
    assert said["0"] == "[rank 0] ends too: another rank is gone (RuntimeError: connection closed by peer)\n"
    assert json.loads(failure.read_text()) == {"rank": "1", "message": "record 7: no picture", "code": 1}


def test_of_several_ranks_with_a_fault_of_ours_one_writes_its_details(tmp_path: Path) -> None:
    """It stands in the debug log, too: a launcher may look for it on a disk that this machine does not share."""
    failure = tmp_path / "failure.json"
    screen = "s = __import__('llava_finetune.screen').screen; kept = s.routed('train'); kept.__enter__()"
    log = f"{screen}; s.debug_to(Path({str(tmp_path / 'debug.log')!r}))"
    environment = make_command(
        tmp_path,
        f"from pathlib import Path; {log}; raise KeyError('x') if os.environ['RANK'] != '2' else UserError('')",
    )
    said = []
    for rank in ("0", "1", "2"):
        ranks = {"RANK": rank, "LOCAL_RANK": rank, "TMPDIR": str(tmp_path)}
        ranks[errors.FAILURE_VARIABLE] = str(failure)
        said.append(run_python("-c", START.format(debug=False), **environment, **ranks).stderr)
    (details,) = tmp_path.glob("llava-finetune-fault-*.txt")
    assert str(details) in json.loads(failure.read_text())["message"]
    assert (tmp_path / "debug.log").read_text().startswith("[rank 0] error: a fault of llava-finetune's own")
    assert said == ["", "[rank 1] ends too: KeyError: 'x'\n", "[rank 2] ends too: UserError\n"]
