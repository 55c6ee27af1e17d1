"""The `llava-finetune` command: finds the module of a subcommand, imports only that one, and runs its `main`.

    llava-finetune doctor --json
    llava-finetune plan --help

Exit codes: 0 done, 1 found or failed, 2 wrong use. Errors are one message on stderr. An error that nobody foresaw is
called a fault of ours, and a file holds its details. `--debug` shows the traceback.
"""

import contextlib
import gc
import importlib
import importlib.util
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import NoReturn

from llava_finetune import __version__
from llava_finetune.errors import Recorded, is_echo, record_details, record_failure
from llava_finetune.parent import end_with_parent
from llava_finetune.screen import note, routed


@dataclass(frozen=True)
class Command:
    """A subcommand: the module whose `main(argv) -> int` runs it, and one line for `--help`."""

    module: str
    summary: str


COMMANDS: dict[str, Command] = {
    "train": Command("llava_finetune.training.train", "pretrain the projector, or fine-tune: full, LoRA, QLoRA"),
    "evaluate": Command(
        "llava_finetune.evaluation.evaluate", "answer the questions of a records file and score the answers"
    ),
    "merge": Command("llava_finetune.merge.command", "merge an adapter and projector into its base, and verify it"),
    "import": Command("llava_finetune.convert.importing", "llava-hf layout to upstream's layout"),
    "export": Command(
        "llava_finetune.convert.export",
        "upstream's layout to llava-hf (transformers, vLLM, SGLang) or GGUF (llama.cpp)",
    ),
    "certify": Command(
        "llava_finetune.engines.command", "ask every engine the same questions: who answers as the model does"
    ),
    "lmms-task": Command("llava_finetune.evaluation.lmms_task", "your questions as a task of lmms-eval"),
    "chat": Command("llava_finetune.serve.chat", "talk to a model in the terminal"),
    "serve": Command("llava_finetune.serve", "a web page and an OpenAI-compatible API for a model"),
    "studio": Command("llava_finetune.studio", "from a folder of pictures to a tuned model in the browser"),
    "report": Command("llava_finetune.report", "one self-contained page of a run, or of several side by side"),
    "push": Command("llava_finetune.publish.push", "publish a model on the hub: private, with its card"),
    "plan": Command(
        "llava_finetune.planning.plan", "memory per GPU from the config alone, and the launcher line that fits"
    ),
    "doctor": Command("llava_finetune.doctor.command", "check this machine and set-up, or the dtypes of a model"),
    "base": Command(
        "llava_finetune.quickstart.base_model", "build the small base model of the quickstart from packages"
    ),
}

OURS = {"", "data_prep", "llava", "llava_finetune", "patches"}
"""Packages of this repository: where a module of theirs is missing, the fault is ours."""

ECHO_SECONDS = 3.0
"""How much later a rank leaves whose error only echoes another's end; DeepSpeed's launcher looks once a second."""

HEADER = "usage: llava-finetune [--debug] [--version] COMMAND ..."


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand and return its exit code (0 done, 1 found or failed, 2 wrong use)."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug, arguments = take_debug(arguments)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(help_text())
        return 0 if arguments else 2
    if arguments[0] == "--version":
        print(f"llava-finetune {__version__}")
        return 0
    name, rest = arguments[0], arguments[1:]
    if name not in COMMANDS:
        print(f"llava-finetune: no command {name!r}; commands: {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    with routed(name, debug):
        return run_command(COMMANDS[name].module, rest, debug=debug)


def run_command(module: str, argv: Sequence[str], *, debug: bool = False) -> int:
    """Import `module` and run its `main(argv)`; a UserError or a closed pipe becomes a message and an exit code."""
    end_with_parent()
    try:
        with _ended_in_order():
            return _imported(module).main(argv)  # type: ignore[no-any-return]
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        code = int(getattr(error, "exit_code", 1))
        if "LOCAL_RANK" in os.environ:
            _end_rank(error, code, [module, *argv], traced=debug)
        if debug:
            raise
        print(_told(error, [module, *argv]), file=sys.stderr)
        return code


@contextlib.contextmanager
def _ended_in_order() -> Iterator[None]:
    """Let SIGTERM and a closed terminal end a command as Ctrl-C does: what is half-written goes, and what it started.

    A training takes the signals over when it has something to save. A rank of several keeps the system's way, and a
    signal that was ignored from the start (nohup) stays so.
    """
    is_alone = "LOCAL_RANK" not in os.environ and threading.current_thread() is threading.main_thread()
    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if is_alone and hasattr(signal, name)]
    usual = [number for number in numbers if signal.getsignal(number) is signal.SIG_DFL]
    for number in usual:
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    try:
        yield
    finally:
        for number in usual:
            signal.signal(number, signal.SIG_DFL)


def _imported(module: str) -> ModuleType:
    """Import `module` and all that it needs, four thousand modules for training, without looking for garbage in them.

    The collector would look again and again, a second of seven; afterwards it leaves them out for good.
    """
    if module in sys.modules:  # called once more in a process: what is garbage by now must not be kept for good
        return sys.modules[module]
    gc.disable()
    try:
        return importlib.import_module(module)
    finally:
        gc.freeze()
        gc.enable()


def help_text() -> str:
    """The text of `llava-finetune --help`: every command with its line, exit codes and examples."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {command.summary}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            HEADER,
            "",
            "Fine-tune LLaVA on your own pictures, from the official source, on today's stack.",
            "",
            "commands:",
            *lines,
            "",
            "`llava-finetune COMMAND --help` shows a command's flags and examples. Training is started by",
            "scripts/pretrain.sh, finetune_lora.sh, _qlora.sh, _full.sh and _dpo.sh, which call `train`.",
            "",
            "examples:",
            "  llava-finetune doctor",
            "  llava-finetune plan --model liuhaotian/llava-v1.5-7b --mode lora --gpus 1x24GB",
            "  llava-finetune evaluate --model runs/NAME --data val.json --images images",
            "",
            "exit codes: 0 done, 1 found or failed, 2 wrong use. --debug shows the traceback of an error.",
        ]
    )


def _told(error: Exception, command: Sequence[str]) -> str:
    """The line that tells of an error: its own words where they are for the user, else that it is a fault of ours."""
    from data_prep.last_resort import fault_of_ours, is_message, told

    if is_message(error):
        return f"error: {told(error)}"
    missing = (error.name or "").partition(".")[0] if isinstance(error, ModuleNotFoundError) else ""
    if missing not in OURS and importlib.util.find_spec(missing) is None:
        return f"error: no package {missing} for {sys.executable}: bash scripts/setup.sh installs what commands need"
    from llava_finetune.flags import without_secrets

    return fault_of_ours(error, without_secrets(command))


def _end_rank(error: Exception, code: int, command: Sequence[str], *, traced: bool) -> NoReturn:
    """End this rank of several at once: the first to fail speaks, the others' errors are mostly its echo.

    Leaves through os._exit: an ordinary exit waits for collectives that the other ranks will never answer. An echo
    leaves a little later, so that a launcher first meets the process that was killed, and can tell by what.
    """
    from data_prep.last_resort import is_message, told

    text = (told(error) if is_message(error) else f"{type(error).__name__}: {error}").strip() or type(error).__name__
    brief = text.splitlines()[0][:200]
    name = f"[rank {os.environ.get('RANK', os.environ['LOCAL_RANK'])}]"
    if is_echo(error):
        print(f"{name} ends too: another rank is gone ({brief})", file=sys.stderr, flush=True)
        time.sleep(ECHO_SECONDS)
        _leave(code)
    recorded = record_failure(text, code)
    if recorded is Recorded.LATE:
        print(f"{name} ends too: {brief}", file=sys.stderr)
        _leave(code)
    message = _told(error, command)  # may write a file of details: the first to fail alone does
    if recorded is Recorded.LEFT:
        record_details(message.removeprefix("error: "), code)
        note(f"{name} {message}")  # a launcher of another machine may look on a disk that this one does not share
    if traced or recorded is Recorded.UNREAD:
        print(f"{name} {''.join(traceback.format_exception(error)) if traced else message}", file=sys.stderr)
    _leave(code)


def _leave(code: int) -> NoReturn:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def take_debug(arguments: list[str]) -> tuple[bool, list[str]]:
    """Take `--debug` out of the arguments, wherever it stands before a `--`."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    head = [argument for argument in arguments[:end] if argument != "--debug"]
    return len(head) != end, head + arguments[end:]
