"""What a process that forks does once, so that its children do not each do it again: imports, and what they find out.

warm_up()
pid = os.fork()
done = run_module("llava.eval.run_llava", "--model-path", ...)     # python -m, without the imports' six seconds
"""

from __future__ import annotations

import functools
import gc
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Mapping


@functools.cache
def warm_up(offload: bool = False) -> None:
    """Import the stack, find out which operators DeepSpeed can build and how weights are renamed, and freeze garbage.

    Nothing here may open a thread pool: a forked child would wait for threads that it does not have.
    """
    import bitsandbytes  # noqa: F401
    import deepspeed.ops
    import matplotlib.backends.backend_agg
    import matplotlib.figure  # noqa: F401
    import peft  # noqa: F401
    import sentencepiece  # noqa: F401
    import torch
    from transformers.conversion_mapping import get_checkpoint_conversion_mapping

    import patches.series  # noqa: F401

    torch.set_num_threads(1)
    _ = deepspeed.ops.__compatible_ops__
    get_checkpoint_conversion_mapping("llava")
    if offload:
        deepspeed.ops.op_builder.CPUAdamBuilder().load(verbose=False)
    gc.collect()
    gc.freeze()  # children collect what they made, not four thousand modules


def settle_threads() -> None:
    """First of all in a forked child: torch makes its thread pool anew there, which fails if two threads need it."""
    import torch

    torch.set_num_threads(1)


def run_module(
    module: str, *arguments: object, input: str = "", env: Mapping[str, str] | None = None, timeout: float = 300
) -> subprocess.CompletedProcess[str]:
    """`python -m module arguments` in a forked child, with its output as text; `env` is added to the environment."""
    warm_up()
    words = [module, *map(str, arguments)]
    sys.stdout.flush()
    sys.stderr.flush()
    with (
        tempfile.TemporaryFile("w+") as given,
        tempfile.TemporaryFile("w+") as out,
        tempfile.TemporaryFile("w+") as err,
    ):
        given.write(input)
        given.seek(0)
        pid = os.fork()
        if pid == 0:
            _be_module(words, env or {}, (given.fileno(), out.fileno(), err.fileno()))
        code = _wait(pid, timeout)
        out.seek(0)
        err.seek(0)
        return subprocess.CompletedProcess(words, code, out.read(), err.read())


def _wait(pid: int, timeout: float) -> int:
    end = time.monotonic() + timeout
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > end:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            raise AssertionError(f"process {pid} still runs after {timeout} s")
        time.sleep(0.01)


def _be_module(words: list[str], env: Mapping[str, str], files: list[int]) -> None:
    code = 1
    try:
        for number, file in enumerate(files):
            os.dup2(file, number)
        sys.stdin, sys.stdout, sys.stderr = (
            os.fdopen(n, mode, closefd=False) for n, mode in enumerate(("r", "w", "w"))
        )
        os.environ.update(env)
        settle_threads()
        sys.argv = words
        sys.modules.pop("__main__", None)
        runpy.run_module(words[0], run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        code = end.code if isinstance(end.code, int) else 1 if end.code else 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
