"""What a process that forks does once, so that its children do not each do it again: imports, and what they find out.

warm_up()
pid = fork(run, [log.fileno(), log.fileno()])
done = run_module("llava.eval.run_llava", "--model-path", ...)     # python -m, without the imports' six seconds
"""

from __future__ import annotations

import functools
import gc
import importlib
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import ExitStack

LATE = (
    "deepspeed.module_inject.auto_ep_layer",
    "deepspeed.runtime.superoffload.superoffload_stage3",
    "deepspeed.runtime.zero.muon.muon_optimizer",
    "google.protobuf.text_format",
    "llava_finetune.report.writing",
    "llava_finetune.upstream.guards",
    "peft.tuners.lora.bnb",
    "pillow_heif",
    "sentencepiece.sentencepiece_model_pb2",
    "torch.distributed.algorithms.ddp_comm_hooks.default_hooks",
    "transformers.hf_argparser",
    "transformers.models.llama.tokenization_llama",
)
"""What a training imports where it first needs it: a third of a second in each of 300."""


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
    from PIL import Image
    from tqdm import tqdm
    from transformers.conversion_mapping import get_checkpoint_conversion_mapping

    import patches.series  # noqa: F401

    # tqdm's own lock is one for all forked processes: a child that is killed while it holds it would stop the others.
    tqdm.set_lock(threading.RLock())
    for name in LATE:
        importlib.import_module(name)
    Image.init()  # Pillow's readers of every format
    torch.set_num_threads(1)
    _ = deepspeed.ops.__compatible_ops__
    get_checkpoint_conversion_mapping("llava")
    if offload:
        deepspeed.ops.op_builder.CPUAdamBuilder().load(verbose=False)
    gc.collect()
    gc.freeze()  # children collect what they made, not four thousand modules


def draw_no_curves() -> None:
    """In a forked child: leave out the PNG curves at a training's end, seconds in each; tests/report has them."""
    import llava_finetune.report.writing as writing

    writing.write_curves = lambda run, folder: []  # its own name for them: LATE has imported it


def build_operators() -> None:
    """Compile what DeepSpeed runs on the CPU, once for all and in a process of its own, before a run is timed.

    On a loaded machine the compiler takes minutes: a run that compiled inside of its time limit was ended for that, its
    log still empty. A rank that is killed while it builds leaves a lock that others wait for.
    """
    from llava_finetune.launching.preflight import drop_stale_locks, extensions_folder

    extensions = extensions_folder()
    if extensions.is_dir():
        drop_stale_locks(extensions)
    with tempfile.TemporaryFile("w+") as said:
        code = wait_for(fork(_build, [said.fileno(), said.fileno()]), seconds=1800)
        said.seek(0)
        assert code == 0, said.read()[-2000:]


def _build() -> None:
    os.environ["DS_ACCELERATOR"] = "cpu"
    from deepspeed.accelerator.cpu_accelerator import CPU_Accelerator

    CPU_Accelerator().create_op_builder("ShareMemCommBuilder").load(verbose=False)


def fork(run: Callable[[], int | None], files: Sequence[int]) -> int:
    """The pid of a child that ends with what `run` returns; `files` are its output and error, before them its input.

    None is exit code 0; an error is printed, and is 1.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    if pid := os.fork():
        return pid
    code: object = 1
    try:
        for number, file in enumerate(files, start=3 - len(files)):
            os.dup2(file, number)
        errors = ("strict", "strict", "backslashreplace")  # as Python opens them
        sys.stdin, sys.stdout, sys.stderr = (
            os.fdopen(n, "rww"[n], buffering=1, errors=errors[n], closefd=False) for n in range(3)
        )
        # Torch makes its thread pool anew in a forked child, which fails if two threads are the first to need it.
        import torch

        torch.set_num_threads(1)
        code = run()
    except SystemExit as end:
        code = end.code
        if isinstance(code, str):
            print(code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 1 if code else 0)


def run_module(module: str, *arguments: object, input: str = "") -> subprocess.CompletedProcess[str]:
    """`python -m module arguments` in a forked child, with its output as text."""
    warm_up()
    words = [module, *map(str, arguments)]

    def run() -> None:
        sys.argv = words
        runpy.run_module(module, run_name="__main__", alter_sys=True)

    with ExitStack() as stack:
        given, out, err = (stack.enter_context(tempfile.TemporaryFile("w+")) for _ in range(3))
        given.write(input)
        given.seek(0)
        code = wait_for(fork(run, [given.fileno(), out.fileno(), err.fileno()]), seconds=300)
        out.seek(0)
        err.seek(0)
        return subprocess.CompletedProcess(words, code, out.read(), err.read())


def wait_for(pid: int, seconds: float) -> int:
    """The exit code of a child; one that still runs after `seconds` is killed, and fails the test."""
    end = time.monotonic() + seconds
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > end:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            raise AssertionError(f"process {pid} still runs after {seconds} s")
        time.sleep(0.01)
