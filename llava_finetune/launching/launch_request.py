"""What the launchers' environment and flags ask for: `LaunchRequest`, read once and handed on.

request = read_request(["lora", "--dry-run"], os.environ)
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from llava_finetune.errors import UsageError
from llava_finetune.launching import batches, preflight
from llava_finetune.machine import gpus

MOST_RANKS, MOST_NODES = 1024, 100_000
"""Processes of one machine, and machines, that a launch takes."""


@dataclass(frozen=True)
class LaunchRequest:
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
        return len(self.hosts) or batches.number(self.environment, "NNODES", 1, high=MOST_NODES)

    @property
    def over_ssh(self) -> bool:
        """Whether DeepSpeed's launcher reaches the other machines itself."""
        return len(self.hosts) > 1 and not self.get("NODE_RANK")

    @property
    def world_size(self) -> int:
        """Processes over all machines."""
        return sum(slots for _, slots in self.hosts) or self.processes * self.num_nodes


def read_request(arguments: Sequence[str], environment: Mapping[str, str]) -> LaunchRequest:
    """The request of `MODE FLAGS...` and the environment; UsageError where they contradict each other."""
    own = {"--dry-run", "--auto", "--debug"}
    flags = tuple(argument for argument in arguments[1:] if argument not in own)
    hosts = preflight.read_hostfile(Path(environment["HOSTFILE"])) if environment.get("HOSTFILE") else ()
    found = [] if environment.get("NUM_GPUS") == "0" else gpus()
    on_gpu = bool(found)
    wanted = batches.number(environment, "NUM_GPUS", len(found) or 1, low=0, high=MOST_RANKS) or 1
    for name, low, high in (("NODE_RANK", 0, MOST_NODES - 1), ("MASTER_PORT", 1, 65_535)):
        batches.number(environment, name, high, low, high)
    if on_gpu and not hosts and wanted > len(found):
        raise UsageError(f"NUM_GPUS={wanted}, but this machine shows {len(found)} GPU(s); set NUM_GPUS={len(found)}")
    return LaunchRequest(
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
