"""Checks of inputs and machine before a run starts, so that it does not die an hour later with a bare exit code.

>>> require_ready(mode="lora", model="m", processes=2, on_gpu=False, config=None)
"""

import os
import re
import sys
import time
from pathlib import Path

import psutil

from data_prep.errors import quoted
from data_prep.records.near_folder import meant
from data_prep.records.near_names import near_file
from llava_finetune.errors import UserError
from llava_finetune.launching.launcher_lines import say
from llava_finetune.machine import available_ram, free_shm, readable
from llava_finetune.saved.documents import read_document
from llava_finetune.saved.model_names import require_there
from llava_finetune.saved.run_documents import DeepSpeedConfig

SLOTS = re.compile(r"slots=([0-9]{1,4})")
MIN_SHM_PER_RANK = 64 * 2**20
"""NCCL and DataLoader workers share tensors through /dev/shm; a container's default of 64 MB ends in exit code -7."""


def zero_stage(config: Path | None) -> int:
    """The ZeRO stage of a DeepSpeed config file, 0 for None; UserError where the file is not JSON."""
    if config is None:
        return 0
    try:
        values = read_document(config, DeepSpeedConfig)
    except UserError as error:
        raise UserError(f"{error}; compare deepspeed_configs/zero2.json") from None
    return int((values.get("zero_optimization") or {}).get("stage") or 0)


def extensions_folder() -> Path:
    """Where torch builds DeepSpeed's operators: TORCH_EXTENSIONS_DIR, else its own default."""
    return Path(os.environ.get("TORCH_EXTENSIONS_DIR") or Path.home() / ".cache" / "torch_extensions")


def is_unbuilt(extensions: str | os.PathLike[str]) -> bool:
    """Whether no operator of DeepSpeed is built below `extensions` yet."""
    return next(Path(extensions).glob("*/*.so"), None) is None


def stale_locks(extensions: Path, *, min_age: float = 60.0) -> list[Path]:
    """The locks that killed builds of DeepSpeed's operators left below `extensions`.

    torch waits for such a lock for ever and says nothing (torch/utils/file_baton.py). One is taken for stale when it is
    older than `min_age` seconds and no process of this machine works in its folder, where ninja runs while it builds.
    """
    old = [lock for lock in extensions.glob("**/lock") if _age(lock) > min_age]
    busy = _working_folders() if old else set()
    return [lock for lock in old if lock.parent.resolve() not in busy]


def _age(lock: Path) -> float:
    """Seconds since a lock was made; -1 where its build has just ended and taken it away."""
    try:
        return time.time() - lock.stat().st_mtime
    except FileNotFoundError:
        return -1.0


def drop_stale_locks(extensions: Path, *, min_age: float = 60.0) -> list[Path]:
    """Remove the stale locks below `extensions`; returns what was removed."""
    stale = stale_locks(extensions, min_age=min_age)
    for lock in stale:
        lock.unlink(missing_ok=True)
    return stale


def _working_folders() -> set[Path]:
    folders = set()
    for process in psutil.process_iter(["cwd"]):
        if process.info["cwd"]:
            folders.add(Path(process.info["cwd"]).resolve())
    return folders


def require_inputs(model: str, data: str, images: str) -> None:
    """Raise UserError for a model's folder, a records file or a picture folder that is not there."""
    require_there(model, "MODEL=")
    if not Path(data).is_file():
        near = near_file(data)
        advice = f"did you mean {near}?" if near else "`python -m data_prep --help` makes one"
        raise UserError(f"DATA={data}: no such file; {advice}")
    if images and not Path(images).is_dir():
        advice = meant(images, "the records' image names are relative to it")
        raise UserError(f"IMAGES={images}: no such folder; {advice}")


def require_ready(
    *,
    mode: str,
    model: str,
    processes: int,
    on_gpu: bool,
    config: Path | None,
    checks: bool = True,
) -> None:
    """Raise UserError where RAM or /dev/shm is too small for `processes` on this machine."""
    if not checks:
        return
    require_shm(processes, free_shm())
    needed = ram_needed(model, mode, processes, on_gpu=on_gpu, config=config)
    if needed is None:
        say(f"# the memory check is left out: the config of {model} is not at hand", sys.stderr)
    if needed is not None:
        require_ram(needed, processes, available_ram(), mode)


def require_shm(processes: int, free: int | None) -> None:
    """Raise UserError where several ranks would share too small a /dev/shm; `free` in bytes, None for none."""
    wanted = MIN_SHM_PER_RANK * processes
    if processes > 1 and free is not None and free < wanted:
        raise UserError(
            f"/dev/shm has {readable(free)} free, {processes} processes need {readable(wanted)} or they end with exit "
            "code -7; start the container with --shm-size=8g or --ipc=host (LAUNCH_CHECKS=off starts all the same)"
        )


def require_ram(needed: int, processes: int, free: int, mode: str = "lora") -> None:
    """Raise UserError where `needed` bytes of host RAM are more than what is `free`, with what helps in this `mode`."""
    if needed > free:
        ways = ["fewer processes (NUM_GPUS)", "DEEPSPEED_CONFIG=zero3"] if processes > 1 else []
        ways += [] if mode in ("qlora", "pretrain") else ["scripts/finetune_qlora.sh"]
        noun = "process needs" if processes == 1 else "processes need"
        raise UserError(
            f"{processes} {noun} about {readable(needed)} of RAM on this machine, {readable(free)} are free (too "
            f"little ends with exit code -9); use {', '.join([*ways, 'a smaller MODEL'])}, or free memory "
            "(LAUNCH_CHECKS=off starts all the same)"
        )


def ram_needed(model: str, mode: str, processes: int, *, on_gpu: bool, config: Path | None) -> int | None:
    """Bytes of RAM that `processes` ranks need here by the plan, or None where the model's config is not at hand."""
    from llava_finetune.planning.from_config import read_shape
    from llava_finetune.planning.memory import host_ram
    from llava_finetune.planning.setting import Setting

    try:
        shape = read_shape(model)
    except UserError:
        return None
    text = config.read_text(encoding="utf-8") if config else "{}"
    offloads = '"offload_' in text
    setting = Setting(mode=mode, num_gpus=processes, stage=zero_stage(config), offload=offloads)
    return host_ram(shape, setting, on_gpu=on_gpu)


def read_hostfile(path: Path) -> tuple[tuple[str, int], ...]:
    """Hosts and their slots from lines `HOST slots=N`; UserError names the line that is none."""
    if not path.is_file():
        raise UserError(f"HOSTFILE={path}: no such file; write one line per machine: HOST slots=NUMBER_OF_GPUS")
    hosts = []
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        words = line.split("#", 1)[0].split()
        if not words:
            continue
        if len(words) != 2 or not SLOTS.fullmatch(words[1]):
            raise UserError(f"{path}, line {number}: expected `HOST slots=N`, found {quoted(line.strip())}")
        hosts.append((words[0], int(words[1][6:])))
    if not hosts:
        raise UserError(f"{path}: no host in it; write one line per machine: HOST slots=NUMBER_OF_GPUS")
    return tuple(hosts)
