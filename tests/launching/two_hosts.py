"""Two hosts on one machine: network namespaces with a cable between them where the system allows it, else loopback.

What runs in a host sees its own loopback, one interface and the other host's address, as on a cluster. `programs` adds
ssh and pdsh, which enter a host with a bare environment, as a login there would.

    with two_hosts() as (first, second):
        subprocess.run([*first.enter, "ping", "-c", "1", second.address])
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.fixtures.pretended_machine import write_program

SSH = """#!/usr/bin/env bash
# ssh [-o OPTION] HOST COMMAND: in the host's namespace, with what a login gives
while [[ "$1" == -* ]]; do shift 2; done
host=$1; shift
exec {enter} env -i HOME="$HOME" PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin bash -c "$*"
"""
PDSH = """#!/usr/bin/env bash
# pdsh -S -f N -w HOST,HOST COMMAND: on all hosts at once, %n is a host's number; the largest exit code is the answer
while [[ "$1" == -* ]]; do
  case "$1" in -w) hosts=$2; shift 2 ;; -f) shift 2 ;; *) shift ;; esac
done
command="$*" number=0 pids=()
for host in ${hosts//,/ }; do
  ssh "$host" "${command//%n/$number}" > >(sed -u "s/^/$host: /") 2> >(sed -u "s/^/$host: /" >&2) &
  pids+=($!)
  number=$((number + 1))
done
code=0
for pid in "${pids[@]}"; do wait "$pid" || { one=$?; ((one <= code)) || code=$one; }; done
sleep 0.2
exit $code
"""


@dataclass(frozen=True)
class Host:
    """`enter`: the words before a command that run it in this host; `interface`: the one to the other host.

    `fault`: why it is no network namespace.
    """

    address: str
    interface: str
    enter: tuple[str, ...] = ()
    fault: str = ""

    @property
    def kind(self) -> str:
        """What it and its neighbour are made of, for the log of a test."""
        if self.fault:
            return f"two loopback addresses; network namespaces are not allowed here ({self.fault})"
        return "two network namespaces with a veth pair between them"


@contextlib.contextmanager
def two_hosts() -> Iterator[tuple[Host, Host]]:
    """Two hosts for a while."""
    names = [f"lf{os.getpid()}{letter}" for letter in "ab"]
    fault = _connect(names) if shutil.which("ip") else "no ip command"
    try:
        if fault:
            yield Host("127.0.0.1", "lo", fault=fault), Host("127.0.0.2", "lo", fault=fault)
        else:
            first, second = (
                Host(f"10.213.0.{number}", "eth0", ("ip", "netns", "exec", name))
                for number, name in enumerate(names, 1)
            )
            yield first, second
    finally:
        for name in names if shutil.which("ip") else []:
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


def programs(folder: Path, hosts: tuple[Host, Host]) -> Path:
    """A folder for PATH with an ssh that enters these hosts by their addresses, and a pdsh over it."""
    first, second = hosts
    enter = f'$([[ "$host" == {first.address} ]] && echo {" ".join(first.enter)} || echo {" ".join(second.enter)})'
    write_program(folder / "ssh", SSH.format(enter=enter))
    write_program(folder / "pdsh", PDSH)
    return folder


def _connect(names: list[str]) -> str:
    """Make both namespaces and the pair of interfaces; what the system said against it, or nothing."""
    first, second = names
    commands = [
        f"ip netns add {first}",
        f"ip netns add {second}",
        f"ip link add eth0 netns {first} type veth peer name eth0 netns {second}",
    ]
    for number, name in enumerate(names, 1):
        commands += [
            f"ip -n {name} addr add 10.213.0.{number}/24 dev eth0",
            f"ip -n {name} link set eth0 up",
            f"ip -n {name} link set lo up",
        ]
    for command in commands:
        done = subprocess.run(command.split(), capture_output=True, text=True, check=False)
        if done.returncode:
            return done.stderr.strip() or command
    return ""
