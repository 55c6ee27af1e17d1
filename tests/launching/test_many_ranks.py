"""Several ranks and several hosts for real: one rank's error ends all with its own message, and two hosts train as one.

The hosts are network namespaces with a cable between them, or loopback addresses where that is not allowed.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from llava_finetune.launching.processes import free_port
from tests.fixtures.environments import no_rank
from tests.launching.two_hosts import Host, programs, two_hosts
from tests.tiny import IMAGE_SIZE, make_tiny_llava

ROOT = Path(__file__).resolve().parents[2]
RANK = """
import os, signal, sys
import torch.distributed as dist
from llava_finetune.cli import run_command
from llava_finetune.errors import UserError
from llava_finetune.training.ranks import start_deepspeed

def main(argv):
    GROUP
    dist.barrier()
    if dist.get_rank() == 1:
        ACT
    dist.barrier()
    return 0

if __name__ == "__main__":
    sys.exit(run_command("one_rank", []))
"""
GROUPS = {"deepspeed": "start_deepspeed()", "torchrun": 'dist.init_process_group("gloo")'}
STARTERS = {
    "deepspeed": ["deepspeed", "--no_local_rank", "--num_gpus", "2", "--module", "one_rank"],
    "torchrun": ["torchrun", "--nproc_per_node", "2", "-m", "one_rank"],
}


def environment(**variables: str) -> dict[str, str]:
    """This process's environment with the project's programs first and no rank of its own."""
    return no_rank(DS_ACCELERATOR="cpu", OMP_NUM_THREADS="1") | variables


def two_ranks(launcher: str, act: str, folder: Path) -> "subprocess.CompletedProcess[str]":
    """Two ranks that meet; then the second does `act`, and the first waits for it."""
    (folder / "one_rank.py").write_text(RANK.replace("ACT", act).replace("GROUP", GROUPS[launcher]))
    port = free_port()
    words = [*STARTERS[launcher][:1], "--master_port", str(port), *STARTERS[launcher][1:]]
    code = f"import os, sys; from llava_finetune.launching.processes import run; sys.exit(run({words!r}, os.environ))"
    result = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=environment(PYTHONPATH=f"{folder}{os.pathsep}{ROOT}"),
        cwd=folder,
        timeout=180,
    )
    assert result.returncode not in (0, 124)
    assert "[rank 0] Traceback" not in result.stderr, "a lost connection is no story of its own"
    assert not list(Path("/dev/shm").glob(f"*_{port}_*")), "DeepSpeed's buffers stay in memory behind the run"
    return result


@pytest.mark.slow
@pytest.mark.parametrize("launcher", STARTERS)
def test_one_ranks_error_ends_all_ranks_and_its_message_comes_last_and_once(launcher: str, tmp_path: Path) -> None:
    said = two_ranks(launcher, 'raise UserError("record 7: dog.png cannot be read")', tmp_path).stderr
    assert said.count("record 7: dog.png cannot be read") == 1
    assert said.splitlines()[-1] == "rank 1 ended the run: record 7: dog.png cannot be read"


@pytest.mark.slow
@pytest.mark.parametrize("launcher", STARTERS)
def test_a_rank_that_was_killed_is_explained_though_the_other_noticed_first(launcher: str, tmp_path: Path) -> None:
    result = two_ranks(launcher, "os.kill(os.getpid(), signal.SIGKILL)", tmp_path)
    last = result.stderr.splitlines()[-1]
    assert last.startswith("a process ended with exit code -9: killed by the system (SIGKILL), nearly always because")
    assert "Free RAM now" in last and result.returncode == 137


@pytest.fixture(scope="module")
def hosts() -> Iterator[tuple[Host, Host]]:
    with two_hosts() as both:
        yield both


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model, sixteen records in records.json, and the same with one that teaches nothing in broken.json."""
    folder = tmp_path_factory.mktemp("hosts")
    make_tiny_llava(folder / "base")
    Image.new("RGB", (IMAGE_SIZE, IMAGE_SIZE), "red").save(folder / "red.png")
    turns = [{"from": "human", "value": "<image>\nWhat color?"}, {"from": "gpt", "value": "red"}]
    rows: list[dict[str, Any]] = [{"id": str(i), "image": "red.png", "conversations": turns} for i in range(16)]
    (folder / "records.json").write_text(json.dumps(rows))
    rows[7] = {"id": "bad", "conversations": turns[1:]}
    (folder / "broken.json").write_text(json.dumps(rows))
    return folder


def start(host: Host, shop: Path, output: Path, *flags: str, **variables: str) -> "subprocess.Popen[str]":
    """The LoRA launcher in one of the hosts."""
    small = ["--max_steps", "2", "--dataloader_num_workers", "0", "--gradient_checkpointing", "False"]
    given = {
        "MODEL": str(shop / "base"),
        "DATA": str(shop / "records.json"),
        "IMAGES": str(shop),
        "OUTPUT": str(output),
        "GLOBAL_BATCH": "4",
        "PER_GPU_BATCH": "2",
        "GLOO_SOCKET_IFNAME": host.interface,
    }
    return subprocess.Popen(
        [*host.enter, "bash", str(ROOT / "scripts" / "finetune_lora.sh"), *small, *flags],
        env=environment(**{**given, **variables}),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=shop,
        start_new_session=True,
    )


def ends(started: list["subprocess.Popen[str]"]) -> list[str]:
    """What each said, once all have ended; none outlives a test that waits in vain."""
    try:
        return [one.communicate(timeout=300)[0] for one in started]
    finally:
        for one in started:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(one.pid, signal.SIGKILL)


def hostfile(folder: Path, hosts: tuple[Host, Host]) -> str:
    path = folder / "hosts"
    path.write_text("".join(f"{host.address} slots=1\n" for host in hosts))
    return str(path)


def require_one_run(output: Path, said: str, how: str, note: Callable[[str], None], host: Host) -> None:
    note(f"two hosts, {how}: {host.kind}")
    assert json.loads((output / "run.json").read_text())["world_size"] == 2
    assert "4 records a step = 2 process(s) x 2 x 1 accumulated" in said
    assert (output / "adapter_config.json").is_file()


@pytest.mark.slow(seconds=60)
def test_a_hostfile_over_ssh_trains_on_two_hosts_as_one(
    hosts: tuple[Host, Host], shop: Path, tmp_path: Path, note: Callable[[str], None]
) -> None:
    """Started once: DeepSpeed's launcher enters both, with a flag that a shell over there would take apart."""
    path = f"{programs(tmp_path / 'programs', hosts)}{os.pathsep}{environment()['PATH']}"
    variables = {"PATH": path, "HOSTFILE": hostfile(tmp_path, hosts), "MASTER_PORT": str(free_port())}
    master = {} if hosts[0].enter else {"MASTER_ADDR": hosts[0].address}
    targets = r"model\.layers\.\d+\.(self_attn\.q_proj|mlp\.up_proj)"
    started = start(hosts[0], shop, tmp_path / "run", "--lora_targets", targets, **variables, **master)
    (said,) = ends([started])
    assert started.returncode == 0, said[-3000:]
    require_one_run(tmp_path / "run", said, "DeepSpeed over ssh", note, hosts[0])
    assert json.loads((tmp_path / "run" / "adapter_config.json").read_text())["target_modules"]
    assert f"{hosts[1].address}: " in said, "the other host's output comes along"


@pytest.mark.slow
def test_torchrun_on_two_hosts_trains_as_one(
    hosts: tuple[Host, Host], shop: Path, tmp_path: Path, note: Callable[[str], None]
) -> None:
    nodes = {"NNODES": "2", "NUM_GPUS": "1", "MASTER_ADDR": hosts[0].address, "MASTER_PORT": str(free_port())}
    started = [start(host, shop, tmp_path / "run", NODE_RANK=str(i), **nodes) for i, host in enumerate(hosts)]
    said = ends(started)
    assert [one.returncode for one in started] == [0, 0], "\n\n".join(text[-2000:] for text in said)
    require_one_run(tmp_path / "run", said[0], "torchrun", note, hosts[0])


@pytest.mark.slow(seconds=40)
def test_an_error_on_one_host_ends_both_and_both_tell_it(hosts: tuple[Host, Host], shop: Path, tmp_path: Path) -> None:
    variables = {"HOSTFILE": hostfile(tmp_path, hosts), "MASTER_ADDR": hosts[0].address}
    variables |= {
        "MASTER_PORT": str(free_port()),
        "DATA": str(shop / "broken.json"),
        "GLOBAL_BATCH": "16",
        "PER_GPU_BATCH": "8",
    }
    started = [
        start(host, shop, tmp_path / "run", "--check_data", "False", NODE_RANK=str(i), **variables)
        for i, host in enumerate(hosts)
    ]
    said = ends(started)
    assert all(one.returncode not in (0, None) for one in started)
    for text in said:
        last = text.splitlines()[-1]
        assert "ended the run: record 'bad': no supervised token" in last, text[-3000:]
    assert not any("] error: " in text for text in said), "the launchers say it, each on its own machine"
