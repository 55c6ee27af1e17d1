"""Start training: batch arithmetic, checks of the machine, then deepspeed, torchrun or one process.

scripts/pretrain.sh and scripts/finetune_*.sh call it with a mode and flags of
`llava-finetune train`; what it works out is printed, and `--dry-run` prints the command alone.

    python -m llava_finetune.launching.launch lora --dry-run --lora_enable True --num_train_epochs 1
"""

import importlib.util
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from data_prep.picture_folder import SPELLINGS
from llava_finetune import ROOT
from llava_finetune.errors import WITHOUT_DEEPSPEED, UsageError
from llava_finetune.flags import flag
from llava_finetune.launching import batches, preflight
from llava_finetune.launching.launch_request import LaunchRequest, read_request
from llava_finetune.launching.launcher_lines import say
from llava_finetune.launching.near_misses import near_misses
from llava_finetune.launching.relaunch import run_until_it_fits
from llava_finetune.launching.repeat_command import handed_on
from llava_finetune.launching.ssh_environment import shell_word
from llava_finetune.launching.starter import starter
from llava_finetune.planning.proposals import workers

MODES = ("pretrain", "full", "lora", "qlora")
NEEDED = {"MODEL": "--model_name_or_path", "DATA": "--data_path", "OUTPUT": "--output_dir"}
"""Variables without which nothing starts, and the flags that stand for them."""

HELP = """usage: scripts/{pretrain,finetune_{full,lora,qlora,dpo}}.sh [--dry-run] [--auto] [TRAIN FLAGS ...]

Environment:
  MODEL             model to tune: hub id or folder                                     (needed)
  DATA              records, .json or .jsonl, in the human/gpt layout                   (needed)
  IMAGES            folder that the records' image names are relative to
  OUTPUT            run folder to write                                                 (needed)
  NUM_GPUS          GPUs of this machine; without a GPU: processes on the CPU           (all GPUs; 1 process)
  DEEPSPEED_CONFIG  zero2, zero3, zero2_offload, zero3_offload, a path, or none         (zero2; full: zero3)
  GLOBAL_BATCH      records per optimizer step over all GPUs      (128, pretrain 256; fewer than 3,840 records: less)
  PER_GPU_BATCH     records per GPU and forward pass; accumulation follows from it      (4; pretrain: 8)
  HOSTFILE          DeepSpeed hostfile, lines `HOST slots=N`: many machines over ssh
  NODE_RANK, MASTER_ADDR, MASTER_PORT   with HOSTFILE: no ssh, this script started once on each machine
  NNODES            with those three and no HOSTFILE: many machines through torchrun
  LAUNCHER          deepspeed or torchrun                                               (deepspeed)
  GPU               with --auto: the cards to plan for, as 24GB                         (this machine's)
  LAUNCH_CHECKS     off: start although memory or /dev/shm look too small

  --dry-run   print the full command and change nothing
  --auto      take batch, accumulation, ZeRO stage and checkpointing from `llava-finetune plan` for these GPUs
  --debug     show what other libraries say too; else it goes to OUTPUT/debug.log
  others      go to `llava-finetune train`; of two equal flags the later wins (llava-finetune train --help)

examples:
  MODEL=liuhaotian/llava-v1.5-7b DATA=train.json IMAGES=images OUTPUT=runs/a bash scripts/finetune_lora.sh --dry-run
  ... bash scripts/finetune_lora.sh --num_train_epochs 3 --eval_data_path val.json --eval_strategy epoch
  ... NUM_GPUS=1 DEEPSPEED_CONFIG=none bash scripts/finetune_qlora.sh --auto
"""


@dataclass(frozen=True)
class Launch:
    """A command, the variables it is started with, and what was worked out for it."""

    command: tuple[str, ...]
    variables: Mapping[str, str]
    notes: tuple[str, ...] = field(default=())

    def text(self) -> str:
        """The command as it can be pasted into a shell: a flag and its values on one line."""
        lines = [f"{name}={shlex.quote(value)}" for name, value in self.variables.items()]
        lines.append(shlex.quote(self.command[0]))
        for word in self.command[1:]:
            if word.startswith("--") or word == "-m":
                lines.append(f"  {shlex.quote(word)}")
            else:
                lines[-1] += f" {shlex.quote(word)}"
        return " \\\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Build the launch from the environment and the flags, print it, check the machine, run it."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] not in MODES or {"-h", "--help"} & set(arguments):
        print(HELP)
        return 0 if {"-h", "--help"} & set(arguments) else 2
    request = read_request(arguments, os.environ)
    _require_variables(request)
    if request.auto:
        request = apply_plan(request)
    launch = build(request)
    for miss in near_misses(request.environment):
        say(f"WARNING: {miss}", sys.stderr)
    if not request.dry_run:
        preflight.require_inputs(_wanted(request, "MODEL"), _wanted(request, "DATA"), _images(request))
    if request.dry_run:
        print("\n".join([*(f"# {note}" for note in launch.notes), launch.text()]))
        return 0
    for line in (*(f"# {note}" for note in launch.notes), launch.text()):
        say(line, sys.stdout)
    preflight.require_ready(
        mode=request.mode,
        model=_wanted(request, "MODEL"),
        processes=request.processes,
        on_gpu=request.on_gpu,
        config=deepspeed_config(request),
        checks=request.get("LAUNCH_CHECKS") != "off",
    )
    environment = {**request.environment, **launch.variables, **handed_on(launch.command)}
    # On a shared file system another machine may hold the lock: then only one that is surely dead is removed.
    age = 60.0 if request.num_nodes == 1 else 3600.0
    for lock in preflight.drop_stale_locks(Path(environment["TORCH_EXTENSIONS_DIR"]), min_age=age):
        say(f"# removed a lock that a killed build left: {lock}", sys.stdout)
    if deepspeed_config(request) and not request.on_gpu and preflight.is_unbuilt(environment["TORCH_EXTENSIONS_DIR"]):
        say("# DeepSpeed compiles its operators first, once: some minutes without a line on a busy machine", sys.stdout)
    batch, accumulation = (int(flag(launch.command, name) or 1) for name in batches.FLAGS)
    output = Path(_wanted(request, "OUTPUT")).absolute()
    shared = output if request.num_nodes > 1 else None
    return run_until_it_fits(launch.command, environment, batch, accumulation, shared)


def apply_plan(request: LaunchRequest) -> LaunchRequest:
    """Let `llava-finetune plan` choose batch, accumulation, ZeRO stage and checkpointing for the visible GPUs."""
    from llava_finetune.planning.proposals import choose_for_launch

    choice = choose_for_launch(
        model=_wanted(request, "MODEL"),
        mode=request.mode,
        num_gpus=request.world_size,
        gpu=request.get("GPU") or None,
        data=request.get("DATA") or None,
        global_batch=batches.global_batch(
            request.mode, request.flags, request.environment, batches.count_records(_wanted(request, "DATA"))
        ),
        flags=request.flags,
        config=request.get("DEEPSPEED_CONFIG") or None,
    )
    environment = {**request.environment, "DEEPSPEED_CONFIG": choice.deepspeed_config}
    return replace(request, environment=environment, flags=(*request.flags, *choice.flags), notes=choice.notes)


def build(request: LaunchRequest) -> Launch:
    """The command that trains as it is asked; UsageError names what is missing or contradictory."""
    config = deepspeed_config(request)
    bits = flag(request.flags, "--bits") or "16"
    if bits in ("4", "8") and preflight.zero_stage(config) == 3:
        raise UsageError(
            f"--bits {bits} with {config}: ZeRO-3 cannot partition {bits}-bit weights; "
            "use DEEPSPEED_CONFIG=zero2, or 16-bit LoRA (scripts/finetune_lora.sh) with ZeRO-3"
        )
    batch = batches.choose(
        mode=request.mode,
        flags=request.flags,
        environment=request.environment,
        world=request.world_size,
        on_gpu=request.on_gpu,
        data=_wanted(request, "DATA"),
    )
    arguments = [
        *_input_flags(request),
        *([] if config is None else ["--deepspeed", str(config)]),
        *batch.flags,
        *_worker_flags(request),
        *request.flags,
        *(["--debug"] if request.debug else []),
    ]
    words, variables = starter(request, config)
    if request.over_ssh:
        arguments = [shell_word(word) for word in arguments]
    return Launch((*words, "train", *arguments), variables, (*request.notes, *batch.notes))


def deepspeed_config(request: LaunchRequest) -> Path | None:
    """The DeepSpeed config file that the environment names, None for none; UsageError where there is no such file."""
    usual = "zero3" if request.mode == "full" else "zero2"
    name = request.get("DEEPSPEED_CONFIG", usual if sys.platform == "linux" else "none")
    if name == "none":
        return None
    path = Path(name) if name.endswith(".json") else ROOT / "deepspeed_configs" / f"{name}.json"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in (ROOT / "deepspeed_configs").glob("*.json")))
        raise UsageError(f"DEEPSPEED_CONFIG={name}: no file {path}; give {known}, a path ending in .json, or none")
    if importlib.util.find_spec("deepspeed") is None:
        raise UsageError(f"DEEPSPEED_CONFIG={name}: {WITHOUT_DEEPSPEED}")
    return path


def _input_flags(request: LaunchRequest) -> list[str]:
    wanted = [
        (NEEDED["MODEL"], _wanted(request, "MODEL")),
        (NEEDED["DATA"], _wanted(request, "DATA")),
        ("--image_folder", None if flag(request.flags, *SPELLINGS) else request.get("IMAGES")),
        (NEEDED["OUTPUT"], _wanted(request, "OUTPUT")),
    ]
    return [word for name, value in wanted if value and flag(request.flags, name) is None for word in (name, value)]


def _worker_flags(request: LaunchRequest) -> list[str]:
    """Data loading processes that fit this machine's cores; the caller's own number wins."""
    name = "--dataloader_num_workers"
    return [] if flag(request.flags, name) else [name, str(workers(request.processes))]


def _images(request: LaunchRequest) -> str:
    return flag(request.flags, *SPELLINGS) or request.get("IMAGES")


def _wanted(request: LaunchRequest, variable: str) -> str:
    return flag(request.flags, NEEDED[variable]) or request.get(variable)


def _require_variables(request: LaunchRequest) -> None:
    """Raise UsageError with all the needed variables that are not set, and those that look like them."""
    missing = [variable for variable in NEEDED if not _wanted(request, variable)]
    if missing:
        ends = tuple(f" {variable} is" for variable in missing)
        misses = "".join(f"; {miss}" for miss in near_misses(request.environment) if miss.endswith(ends))
        names = " and ".join(missing) + (" are" if len(missing) > 1 else " is")
        given = " ".join(f"{variable}=..." for variable in missing)
        raise UsageError(f"{names} not set; {given} bash scripts/... (--help lists the variables){misses}")


if __name__ == "__main__":
    from llava_finetune.cli import run_command

    sys.exit(run_command("llava_finetune.launching.launch", sys.argv[1:], debug="--debug" in sys.argv))
