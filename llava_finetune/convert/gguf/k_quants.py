"""The K-quants (about 4, 5 and 6 bits a weight), made by llama.cpp's own `llama-quantize` from the F16 file.

Why not by us: which tensor gets which of several types is llama.cpp's choice and changes with it.

    quantize(folder / "model-f16.gguf", folder / "model-q4_k_m.gguf", "q4_k_m", find_quantizer("q4_k_m"))
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from llava_finetune.errors import UserError

K_QUANTS = ("q6_k", "q5_k_m", "q4_k_m")
VARIABLE = "LLAMA_QUANTIZE"


def find_quantizer(kind: str) -> str:
    """The program: $LLAMA_QUANTIZE, or llama-quantize on PATH. Raises UserError when neither is there."""
    named = os.environ.get(VARIABLE) or "llama-quantize"
    found = shutil.which(named)
    if found is None:
        raise UserError(
            f"--type {kind} is made by llama.cpp's own program and {named} is not found; install llama.cpp, or name "
            f"the program: {VARIABLE}=/path/to/llama-quantize. --type q8_0 needs no program"
        )
    return found


def quantize(source: Path, target: Path, kind: str, program: str) -> int:
    """Write `target` from an F16 file, remove that file, and return the new one's bytes."""
    done = subprocess.run(
        [program, str(source), str(target), kind.upper()], capture_output=True, text=True, check=False
    )
    if done.returncode or not target.is_file():
        said = (done.stderr or done.stdout).strip().splitlines()[-1:] or ["no output"]
        raise UserError(f"{program}: cannot write {kind} (exit code {done.returncode}): {said[0]}")
    source.unlink()
    return target.stat().st_size
