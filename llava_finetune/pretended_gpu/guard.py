"""The few lines of C++ that let a CPU build of torch carry tensors of `cuda:0`: compiled once, then loaded.

torch looks for the hooks while it is imported: `load` comes before that. The library is kept beside torch's other
extensions (TORCH_EXTENSIONS_DIR), under a name that changes with its source and with torch, so that no old one is
loaded.

    load()
    import torch
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from llava_finetune.errors import UserError

SOURCE = Path(__file__).with_name("guard.cpp")
COMPILERS = ("c++", "g++", "clang++")
SECONDS = 300.0
"""Compiling takes 10 seconds on a free core."""


@functools.cache
def load() -> None:
    """Make `cuda:0` a device of this process, for good. UserError where that cannot be, with the reason."""
    home = _torch_folder()
    if (home / "lib" / "libtorch_cuda.so").exists():
        return  # a build for CUDA brings its own guard and hooks
    if "torch" in sys.modules:
        raise RuntimeError("the pretended GPU's guard was loaded after torch, which has looked for it already")
    ctypes.CDLL(str(_compiled(home)))


def _torch_folder() -> Path:
    found = importlib.util.find_spec("torch")
    if found is None or found.origin is None:
        raise UserError("torch is not installed; run: bash scripts/setup.sh")
    return Path(found.origin).parent


def _compiled(home: Path) -> Path:
    about = f"{importlib.metadata.version('torch')} {home}".encode()
    name = hashlib.sha256(SOURCE.read_bytes() + about).hexdigest()[:16]
    kept = os.environ.get("TORCH_EXTENSIONS_DIR")
    folder = Path(kept) if kept else Path.home() / ".cache" / "torch_extensions"
    library = folder / f"pretended_gpu_{name}.so"
    if not library.exists():
        folder.mkdir(parents=True, exist_ok=True)
        _compile(library, home)
    return library


def _compile(library: Path, home: Path) -> None:
    compiler = os.environ.get("CXX") or next((name for name in COMPILERS if shutil.which(name)), None)
    if compiler is None:
        raise UserError(
            f"the pretended GPU needs a C++ compiler once, and none of {', '.join(COMPILERS)} is on the PATH; install "
            "one (Debian, Ubuntu: apt-get install g++), or name one by CXX"
        )
    include, lib = home / "include", home / "lib"
    flags = ["-std=c++20", "-O0", "-w", "-fPIC", "-shared", f"-I{include}", f"-I{include}/torch/csrc/api/include"]
    linked = [f"-L{lib}", f"-Wl,-rpath,{lib}", "-lc10", "-ltorch_cpu"]
    with tempfile.TemporaryDirectory(dir=library.parent) as work:
        made = Path(work) / library.name
        command = [compiler, *flags, str(SOURCE), "-o", str(made), *linked]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=SECONDS)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise UserError(f"{compiler} could not compile {SOURCE}: {error}") from None
        if done.returncode:
            errors = [line for line in done.stderr.splitlines() if "error" in line] or done.stderr.splitlines()
            raise UserError(f"{compiler} could not compile {SOURCE}: {errors[0] if errors else 'no message'}")
        made.replace(library)
