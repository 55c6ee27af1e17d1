"""What doctor looks at on the machine itself: GPU, compilers, disk, memory, locks; each a Finding with what mends it.

for finding in check_machine(ROOT, torch_pin="2.13.0"): ...
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from llava_finetune.errors import UserError
from llava_finetune.launching.preflight import extensions_folder, stale_locks
from llava_finetune.machine import Gpu, available_ram, free_disk, free_shm, gpus, readable

OK, WARNING, BROKEN = "ok", "warning", "broken"
SETUP = "bash scripts/setup.sh"
LINUX = sys.platform == "linux"


@dataclass(frozen=True)
class Finding:
    """One line of the report: what was looked at, ok / warning / broken, what was found, the command that mends it."""

    name: str
    status: str
    found: str
    mend: str = ""


def check_machine(root: Path, torch_pin: str) -> Iterator[Finding]:
    """The machine below the checkout at `root`; `torch_pin` is the version in constraints.txt."""
    path = os.environ.get("PATH", "")
    found: list[Gpu] = []
    cuda = None
    try:
        found = gpus()
        cuda = usable_cuda() if found else None
        yield check_gpu(found, cuda, torch_pin)
    except UserError as error:
        yield Finding("GPU", BROKEN, "nvidia-smi fails", str(error))
    yield check_nvcc(cuda, path)
    yield check_compiler(path)
    yield check_disk(free_disk(root))
    yield check_ram(available_ram())
    yield check_shm(free_shm())
    yield check_locks(extensions_folder())


def check_gpu(found: Sequence[Gpu], cuda: str | None, pin: str) -> Finding:
    """What nvidia-smi shows; `cuda` is the CUDA of a torch that can use it, `pin` torch's pinned version."""
    if not found:
        return Finding("GPU", OK, "none: training runs on the CPU")
    text = ", ".join(f"{gpu.name} {readable(gpu.memory)}" for gpu in found)
    if cuda is None:
        return Finding(
            "GPU",
            BROKEN,
            f"{text}, but torch cannot use it: a CPU build, or a driver older than torch's CUDA",
            f"pip install --force-reinstall --no-deps torch=={pin} (from an index with CUDA builds), or a newer driver",
        )
    return Finding("GPU", OK, f"{text}, CUDA {cuda} in torch")


def usable_cuda() -> str | None:
    """The version of CUDA that torch was built with, None where torch sees no GPU; asked in a process of its own."""
    probe = [sys.executable, "-c", "import torch; print(torch.version.cuda if torch.cuda.is_available() else '')"]
    done = subprocess.run(probe, capture_output=True, text=True, timeout=180, check=False)
    return done.stdout.strip() or None


def check_nvcc(cuda: str | None, path: str) -> Finding:
    """CUDA's compiler, of the major version in torch: DeepSpeed builds operators for the GPU with it."""
    if cuda is None:
        return Finding("nvcc", OK, "not needed: no GPU in use")
    home = os.environ.get("CUDA_HOME")
    nvcc = shutil.which("nvcc", path=os.pathsep.join([f"{home}/bin", path] if home else [path]))
    mend = f"conda install -c nvidia cuda-nvcc={cuda} (or NVIDIA's toolkit {cuda} and CUDA_HOME), or no CPU offload"
    if nvcc is None:
        return Finding("nvcc", WARNING, "not found: DeepSpeed cannot build its CPU Adam (offload)", mend)
    said = subprocess.run([nvcc, "--version"], capture_output=True, text=True, timeout=60, check=False).stdout
    release = re.search(r"release (\d+\.\d+)", said)
    version = release.group(1) if release else "of unknown version"
    if version.split(".")[0] != cuda.split(".")[0]:
        return Finding("nvcc", WARNING, f"{nvcc} is {version}, torch was built with CUDA {cuda}", mend)
    return Finding("nvcc", OK, f"{nvcc} {version}")


def check_compiler(path: str) -> Finding:
    """A C++ compiler, ninja and Python's headers: DeepSpeed builds its operators at run time. `path` as in PATH."""
    if not LINUX:
        return Finding("compiler", OK, "not needed: DeepSpeed runs on Linux only")
    names = [os.environ.get("CXX") or "c++", "g++", "clang++"]
    compiler = next((name for name in names if shutil.which(name, path=path)), None)
    if compiler is None:
        return Finding("compiler", BROKEN, f"none of {', '.join(names)} on PATH", "apt install g++ (or dnf, conda)")
    bin_folder = str(Path(sys.executable).parent)
    if not shutil.which("ninja", path=os.pathsep.join([bin_folder, path])):
        return Finding("compiler", BROKEN, f"{compiler}, but no ninja", SETUP)
    if not (Path(sysconfig.get_paths()["include"]) / "Python.h").is_file():
        return Finding("compiler", BROKEN, f"{compiler}, ninja, but no Python.h", "apt install python3-dev")
    return Finding("compiler", OK, f"{compiler}, ninja, Python.h: DeepSpeed can build its operators")


def check_disk(free: int) -> Finding:
    """Free disk at the checkout: a 7B run saves adapters of 1.4 GB and checkpoints of up to 15 GB."""
    low = free < 20 * 10**9
    mend = "free some space, or point OUTPUT at a larger disk; --save_total_limit 1 keeps one checkpoint"
    return Finding("disk", WARNING if low else OK, f"{readable(free)} free", mend)


def check_ram(free: int) -> Finding:
    """Free host memory: a rank that loads a 7B model in 16 bit needs 14 GB."""
    low = free < 6 * 10**9
    mend = "close other programs; `llava-finetune plan` says what a run needs"
    return Finding("RAM", WARNING if low else OK, f"{readable(free)} available", mend)


def check_shm(free: int | None) -> Finding:
    """Free /dev/shm: several ranks and data workers share tensors there, and end with exit code -7 when it is full."""
    if free is None:
        return Finding("/dev/shm", OK, "not used on this system")
    mend = "start the container with --shm-size=8g or --ipc=host"
    return Finding("/dev/shm", WARNING if free < 10**9 else OK, f"{readable(free)} free", mend)


def check_locks(extensions: Path) -> Finding:
    """Locks of killed builds below `extensions`: a run that builds an operator would wait there for ever, silently."""
    stale = stale_locks(extensions)
    if not stale:
        return Finding("build locks", OK, f"none left in {extensions}")
    names = " ".join(map(shlex.quote, map(str, stale)))
    return Finding("build locks", WARNING, f"{len(stale)} left by killed builds of operators", f"rm {names}")
