"""The K-quants (about 4, 5 and 6 bits a weight), made from the F16 file by llama.cpp itself: program or library.

Why not by us: which tensor gets which of several types is llama.cpp's choice and changes with it.

    quantize(folder / "model-f16.gguf", folder / "model-q4_k_m.gguf", "q4_k_m", find_quantizer("q4_k_m"))
"""

from __future__ import annotations

import math
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from llava_finetune.convert.gguf.files import GgufFile
from llava_finetune.environments import engine_python
from llava_finetune.errors import UserError
from llava_finetune.machine import available_ram, readable

K_QUANTS = ("q6_k", "q5_k_m", "q4_k_m")
SHARE = 0.54
"""Bytes of the quantised file beside those of the F16 one at most: what does not pack as asked falls back to Q8_0."""
BYTES_PER_VALUE = 10
"""What llama.cpp holds of the tensor that it packs: its values as F16 and F32, and room of F32 for the packed ones."""
VARIABLE = "LLAMA_QUANTIZE"


def find_quantizer(kind: str) -> Sequence[str]:
    """Return the command: $LLAMA_QUANTIZE, llama-quantize on PATH, or the library in an environment of its own.

    Raises UserError, with what installs one, when none is there.
    """
    named = os.environ.get(VARIABLE)
    if found := shutil.which(named or "llama-quantize"):
        return [found]
    if named:
        raise UserError(f"{VARIABLE}={named}: no such program; name llama.cpp's llama-quantize, or leave it unset")
    try:
        return [engine_python("llama-quantize"), str(Path(__file__).with_name("llama_quantize.py"))]
    except UserError as error:
        raise UserError(
            f"--type {kind} is made by llama.cpp itself, which is not found; install its library: bash "
            f"scripts/engines.sh llama-quantize (or name its program: {VARIABLE}=/path/to/llama-quantize). "
            "--type q8_0 needs neither"
        ) from error


def check_memory(file: GgufFile, kind: str) -> None:
    """Raise UserError where packing the file's largest tensor needs more memory than is free."""
    largest = max(file.tensors, key=lambda each: math.prod(each.shape))
    needed, free = BYTES_PER_VALUE * math.prod(largest.shape), available_ram()
    if free < needed:
        raise UserError(
            f"--type {kind}: llama.cpp needs {readable(needed)} of memory for {largest.name} and {readable(free)} are "
            "free; end other programs, or make it on a machine with more"
        )


def quantize(source: Path, target: Path, kind: str, command: Sequence[str]) -> int:
    """Write `target` from an F16 file, remove that file, and return the new one's bytes."""
    done = subprocess.run(
        [*command, str(source), str(target), kind.upper()],
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode or not target.is_file():
        said = (done.stderr or done.stdout).strip().splitlines()[-1:] or ["no output"]
        raise UserError(f"{command[-1]}: cannot write {kind} (exit code {done.returncode}): {said[0]}")
    source.unlink()
    return target.stat().st_size
