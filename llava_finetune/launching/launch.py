"""Start training: batch arithmetic, checks of the machine, then deepspeed, torchrun or one process.

scripts/pretrain.sh, finetune_full.sh, finetune_lora.sh and finetune_qlora.sh call it with a mode and flags of
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

from llava_finetune import ROOT
from llava_finetune.errors import WITHOUT_DEEPSPEED, UsageError
from llava_finetune.flags import flag
from llava_finetune.launching import batches, preflight
from llava_finetune.launching.launch_command import handed_on
from llava_finetune.launching.near_misses import near_misses
from llava_finetune.launching.processes import free_port
from llava_finetune.launching.relaunch import run_until_it_fits
from llava_finetune.launching.ssh_environment import shell_word
from llava_finetune.machine import gpus
from llava_finetune.planning.proposals import workers

MODES = ("pretrain", "full", "lora", "qlora")

HELP = """usage: scripts/{pretrain,finetune_full,finetune_lora,finetune_qlora}.sh [--dry-run] [--auto] [TRAIN FLAGS ...]

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
class Settings:
    """What the environment and the launcher's own flags ask for."""

    mode: str
    flags: tuple[str, ...]
    environment: Mapping[str, str]
    processes: int
    on_gpu: bool
    hosts: tuple[tuple[str, int], ...] = ()
    dry_run: bool = False
    auto: bool = False
    debug: bool = False
    notes: tuple[str, ...] = ()

    def get(self, name: str, default: str = "") -> str:
        """The environment's value of `name`, or `default` where it is unset or empty."""
        return self.environment.get(name) or default

    @property
    def num_nodes(self) -> int:
        """Machines that take part."""
        return len(self.hosts) or int(self.get("NNODES", "1"))

    @property
    def over_ssh(self) -> bool:
        """Whether DeepSpeed's launcher reaches the other machines itself."""
        return len(self.hosts) > 1 and not self.get("NODE_RANK")

    @property
    def world_size(self) -> int:
        """Processes over all machines."""
        return sum(slots for _, slots in self.hosts) or self.processes * self.num_nodes


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
    settings = read_settings(arguments, os.environ)
    if settings.auto:
        settings = apply_plan(settings)
    launch = build(settings)
    for miss in near_misses(settings.environment):
        print(f"WARNING: {miss}", file=sys.stderr)
    for note in launch.notes:
        print(f"# {note}")
    print(launch.text(), flush=True)
    if settings.dry_run:
        return 0
    preflight.require_ready(
        mode=settings.mode,
        model=_wanted(settings, "--model_name_or_path", "MODEL"),
        data=_data(settings),
        images=flag(settings.flags, "--image_folder") or flag(settings.flags, "--images") or settings.get("IMAGES"),
        processes=settings.processes,
        on_gpu=settings.on_gpu,
        config=deepspeed_config(settings),
        checks=settings.get("LAUNCH_CHECKS") != "off",
    )
    environment = {**settings.environment, **launch.variables, **handed_on(launch.command)}
    # On a shared file system another machine may hold the lock: then only one that is surely dead is removed.
    age = 60.0 if settings.num_nodes == 1 else 3600.0
    for lock in preflight.drop_stale_locks(Path(environment["TORCH_EXTENSIONS_DIR"]), min_age=age):
        print(f"# removed a lock that a killed build left: {lock}", flush=True)
    batch, accumulation = (int(flag(launch.command, name) or 1) for name in batches.FLAGS)
    output = Path(_wanted(settings, "--output_dir", "OUTPUT")).absolute()
    shared = output if settings.num_nodes > 1 else None
    return run_until_it_fits(launch.command, environment, batch, accumulation, shared)


def read_settings(arguments: Sequence[str], environment: Mapping[str, str]) -> Settings:
    """Settings from `MODE FLAGS...` and the environment; UsageError where they contradict each other."""
    own = {"--dry-run", "--auto", "--debug"}
    flags = tuple(argument for argument in arguments[1:] if argument not in own)
    hosts = preflight.read_hostfile(Path(environment["HOSTFILE"])) if environment.get("HOSTFILE") else ()
    found = [] if environment.get("NUM_GPUS") == "0" else gpus()
    on_gpu = bool(found)
    wanted = batches.number(environment, "NUM_GPUS", len(found) or 1) or 1
    if on_gpu and not hosts and wanted > len(found):
        raise UsageError(f"NUM_GPUS={wanted}, but this machine shows {len(found)} GPU(s); set NUM_GPUS={len(found)}")
    return Settings(
        mode=arguments[0],
        flags=flags,
        environment=environment,
        processes=hosts[0][1] if hosts else wanted,
        on_gpu=on_gpu,
        hosts=hosts,
        dry_run="--dry-run" in arguments,
        auto="--auto" in arguments,
        debug="--debug" in arguments,
    )


def apply_plan(settings: Settings) -> Settings:
    """Let `llava-finetune plan` choose batch, accumulation, ZeRO stage and checkpointing for the visible GPUs."""
    from llava_finetune.planning.proposals import choose_for_launch

    choice = choose_for_launch(
        model=_wanted(settings, "--model_name_or_path", "MODEL"),
        mode=settings.mode,
        num_gpus=settings.world_size,
        gpu=settings.get("GPU") or None,
        data=settings.get("DATA") or None,
        global_batch=batches.global_batch(
            settings.mode, settings.flags, settings.environment, batches.count_records(_data(settings))
        ),
        flags=settings.flags,
        config=settings.get("DEEPSPEED_CONFIG") or None,
    )
    environment = {**settings.environment, "DEEPSPEED_CONFIG": choice.deepspeed_config}
    return replace(settings, environment=environment, flags=(*settings.flags, *choice.flags), notes=choice.notes)


def build(settings: Settings) -> Launch:
    """The command that trains with these settings; UsageError names what is missing or contradictory."""
    config = deepspeed_config(settings)
    bits = flag(settings.flags, "--bits") or "16"
    if bits in ("4", "8") and preflight.zero_stage(config) == 3:
        raise UsageError(
            f"--bits {bits} with {config}: ZeRO-3 cannot partition {bits}-bit weights; "
            "use DEEPSPEED_CONFIG=zero2, or 16-bit LoRA (scripts/finetune_lora.sh) with ZeRO-3"
        )
    batch = batches.choose(
        mode=settings.mode,
        flags=settings.flags,
        environment=settings.environment,
        world=settings.world_size,
        on_gpu=settings.on_gpu,
        data=_data(settings),
    )
    arguments = [
        *_input_flags(settings),
        *([] if config is None else ["--deepspeed", str(config)]),
        *batch.flags,
        *_worker_flags(settings),
        *settings.flags,
        *(["--debug"] if settings.debug else []),
    ]
    starter, variables = _starter(settings, config)
    if settings.over_ssh:
        arguments = [shell_word(word) for word in arguments]
    return Launch((*starter, "train", *arguments), variables, (*settings.notes, *batch.notes))


def deepspeed_config(settings: Settings) -> Path | None:
    """The DeepSpeed config file that the environment names, None for none; UsageError where there is no such file."""
    usual = "zero3" if settings.mode == "full" else "zero2"
    name = settings.get("DEEPSPEED_CONFIG", usual if sys.platform == "linux" else "none")
    if name == "none":
        return None
    path = Path(name) if name.endswith(".json") else ROOT / "deepspeed_configs" / f"{name}.json"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in (ROOT / "deepspeed_configs").glob("*.json")))
        raise UsageError(f"DEEPSPEED_CONFIG={name}: no file {path}; give {known}, a path ending in .json, or none")
    if importlib.util.find_spec("deepspeed") is None:
        raise UsageError(f"DEEPSPEED_CONFIG={name}: {WITHOUT_DEEPSPEED}")
    return path


def _input_flags(settings: Settings) -> list[str]:
    images = flag(settings.flags, "--image_folder") or settings.get("IMAGES")
    wanted = [
        ("--model_name_or_path", _wanted(settings, "--model_name_or_path", "MODEL")),
        ("--data_path", _wanted(settings, "--data_path", "DATA")),
        ("--image_folder", images),
        ("--output_dir", _wanted(settings, "--output_dir", "OUTPUT")),
    ]
    return [word for name, value in wanted if value and flag(settings.flags, name) is None for word in (name, value)]


def _worker_flags(settings: Settings) -> list[str]:
    """Data loading processes that fit this machine's cores; the caller's own number wins."""
    name = "--dataloader_num_workers"
    return [] if flag(settings.flags, name) else [name, str(workers(settings.processes))]


def _data(settings: Settings) -> str:
    return _wanted(settings, "--data_path", "DATA")


def _wanted(settings: Settings, name: str, variable: str) -> str:
    value = flag(settings.flags, name) or settings.get(variable)
    if not value:
        misses = "".join(f"; {miss}" for miss in near_misses(settings.environment) if miss.endswith(f" {variable} is"))
        raise UsageError(f"{variable} is not set; {variable}=... bash scripts/... (--help lists the variables){misses}")
    return value


def _starter(settings: Settings, config: Path | None) -> tuple[list[str], dict[str, str]]:
    """The words before `train`, and the variables that the processes get."""
    variables = {"TOKENIZERS_PARALLELISM": "false"}
    if not settings.on_gpu:
        threads = max(1, (os.cpu_count() or 1) // settings.processes)
        variables |= {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": settings.get("OMP_NUM_THREADS", str(threads))}
    if not settings.get("TORCH_EXTENSIONS_DIR"):
        variables["TORCH_EXTENSIONS_DIR"] = str(Path(sys.prefix) / "torch_extensions")
    launcher = settings.get("LAUNCHER", "torchrun" if settings.get("NNODES") else "deepspeed")
    if launcher not in ("deepspeed", "torchrun"):
        raise UsageError(f"LAUNCHER={launcher}: give deepspeed or torchrun")
    if settings.hosts or (config is not None and launcher == "deepspeed"):
        return [*_deepspeed(settings), "--module", "llava_finetune"], variables
    if settings.world_size > 1 or launcher == "torchrun":
        return [*_torchrun(settings), "-m", "llava_finetune"], variables
    return ["python", "-m", "llava_finetune"], variables


def _deepspeed(settings: Settings) -> list[str]:
    words = ["deepspeed", "--no_local_rank", "--master_port", _port(settings)]
    visible = settings.get("CUDA_VISIBLE_DEVICES")
    if settings.hosts:
        words += ["--hostfile", settings.get("HOSTFILE")]
        if settings.get("NODE_RANK"):
            words += ["--no_ssh", "--node_rank", settings.get("NODE_RANK")]
        if settings.get("MASTER_ADDR"):
            words += ["--master_addr", settings.get("MASTER_ADDR")]
    elif settings.on_gpu and visible:
        chosen = ",".join(visible.split(",")[: settings.processes])
        words += ["--include", f"localhost:{chosen}"]
    else:
        words += ["--num_gpus", str(settings.processes)]
    return words


def _torchrun(settings: Settings) -> list[str]:
    words = ["torchrun", "--nproc_per_node", str(settings.processes)]
    if settings.num_nodes == 1:
        return [*words, "--master_port", _port(settings)]
    missing = [name for name in ("NODE_RANK", "MASTER_ADDR") if not settings.get(name)]
    if missing:
        raise UsageError(f"NNODES={settings.num_nodes} needs {' and '.join(missing)} too; see docs/many-nodes.md")
    words += ["--nnodes", str(settings.num_nodes), "--node_rank", settings.get("NODE_RANK")]
    return [*words, "--master_addr", settings.get("MASTER_ADDR"), "--master_port", _port(settings)]


def _port(settings: Settings) -> str:
    """MASTER_PORT, else a free one; between machines, which must agree on it, 29500."""
    fixed = settings.get("MASTER_PORT")
    alone = settings.num_nodes == 1 and not settings.dry_run
    return fixed or str(free_port() if alone else 29500)


if __name__ == "__main__":
    from llava_finetune.cli import run_command

    sys.exit(run_command("llava_finetune.launching.launch", sys.argv[1:], debug="--debug" in sys.argv))
