"""What this machine has: GPUs, memory, /dev/shm, disk. Asked without torch, so that launchers and `plan` start at once.

>>> from llava_finetune.machine import available_ram
>>> available_ram() // 2**30
21
"""

import os
import shutil
import subprocess
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

import psutil

from llava_finetune.errors import UserError

DRIVERS_GPUS = Path("/proc/driver/nvidia/gpus")
"""Where the NVIDIA driver of Linux has a folder for each GPU, whether nvidia-smi works or not."""
GB = 10**9
"""Bytes in the GB that GPU makers and this project's tables use."""


@dataclass(frozen=True)
class Gpu:
    """One GPU: its index as nvidia-smi counts, name, and total memory in bytes."""

    index: int
    name: str
    memory: int


def gpus() -> list[Gpu]:
    """The NVIDIA GPUs that CUDA_VISIBLE_DEVICES leaves visible; empty where there is no nvidia-smi or no GPU.

    Raises UserError where the driver lists a GPU and nvidia-smi fails: the run would go to the CPU in silence.
    """
    query = ["nvidia-smi", "--query-gpu=index,name,memory.total", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=30, check=True).stdout
    except FileNotFoundError:
        return []
    except (OSError, subprocess.SubprocessError) as error:
        if not any(DRIVERS_GPUS.glob("*")):
            return []
        raise UserError(
            f"nvidia-smi failed ({error}), though {DRIVERS_GPUS} lists a GPU: the driver is silent. Run it by hand "
            "and mend what it says (often a restart after a driver's update); NUM_GPUS=0 trains on the CPU"
        ) from None
    found = [_gpu(line) for line in answer.splitlines() if line.count(",") >= 2]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return found
    # CUDA sees nothing from the first index below 0 on: -1 alone hides every GPU.
    wanted = list(takewhile(lambda part: part[0] != "-", filter(None, map(str.strip, visible.split(",")))))
    return [gpu for gpu in found if str(gpu.index) in wanted] if all(map(str.isdigit, wanted)) else found[: len(wanted)]


def _gpu(line: str) -> Gpu:
    index, rest = line.split(",", 1)
    name, mebibytes = rest.rsplit(",", 1)
    memory = mebibytes.strip()
    return Gpu(int(index), name.strip(), int(memory) * 2**20 if memory.isdigit() else 0)


def available_ram() -> int:
    """Bytes of memory that can be used without swapping, within the container's limit where there is one."""
    free = int(psutil.virtual_memory().available)
    limit, used = _cgroup("memory.max"), _cgroup("memory.current")
    return min(free, limit - used) if limit is not None and used is not None else free


def _cgroup(name: str) -> int | None:
    try:
        text = (Path("/sys/fs/cgroup") / name).read_text(encoding="ascii").strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None


def free_shm() -> int | None:
    """Free bytes of /dev/shm, or None where there is none (macOS, Windows)."""
    shm = Path("/dev/shm")
    return shutil.disk_usage(shm).free if shm.is_dir() else None


def free_disk(folder: Path) -> int:
    """Free bytes of the file system that `folder` is on, or would be on once made."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def readable(size: float) -> str:
    """`size` bytes for a person: GB with one digit, MB below one GB."""
    return f"{size / GB:.1f} GB" if size >= GB else f"{size / 10**6:.0f} MB"


def cache_folder(what: str) -> Path:
    """Where `what` is kept between runs: below $LLAVA_FINETUNE_CACHE, else below the user's cache."""
    home = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(os.environ.get("LLAVA_FINETUNE_CACHE") or Path(home) / "llava-finetune") / what
