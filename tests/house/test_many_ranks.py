"""Several ranks for real: one rank's error ends all with its own message, and two nodes train as one."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from llava_finetune.processes import free_port
from llava_finetune.tiny import IMAGE_SIZE, make_tiny_llava

ROOT = Path(__file__).resolve().parents[2]
RANK = """
import os, sys, time
import torch.distributed as dist
from llava_finetune.cli import run_command
from llava_finetune.errors import UserError

def main(argv):
    dist.init_process_group("gloo")
    dist.barrier()
    if dist.get_rank() == 1:
        raise UserError("record 7: dog.png cannot be read")
    dist.barrier()
    return 0

if __name__ == "__main__":
    sys.exit(run_command("one_rank", []))
"""
STARTERS = {
    "deepspeed": ["deepspeed", "--no_local_rank", "--num_gpus", "2", "--module", "one_rank"],
    "torchrun": ["torchrun", "--nproc_per_node", "2", "-m", "one_rank"],
}


def environment(**variables: str) -> dict[str, str]:
    """This process's environment with the project's programs first and no rank of its own."""
    ranks = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    return {
        **{key: value for key, value in os.environ.items() if key not in ranks},
        "PATH": f"{Path(sys.prefix) / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "DS_ACCELERATOR": "cpu",
        "OMP_NUM_THREADS": "1",
        **variables,
    }


@pytest.mark.slow
@pytest.mark.parametrize("launcher", STARTERS)
def test_one_ranks_error_ends_all_ranks_and_its_message_comes_last(launcher: str, tmp_path: Path) -> None:
    (tmp_path / "one_rank.py").write_text(RANK)
    words = [*STARTERS[launcher][:1], "--master_port", str(free_port()), *STARTERS[launcher][1:]]
    code = f"import os, sys; from llava_finetune.processes import run; sys.exit(run({words!r}, os.environ))"
    start = time.monotonic()
    result = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=environment(PYTHONPATH=f"{tmp_path}{os.pathsep}{ROOT}"),
        cwd=tmp_path,
        timeout=180,
    )
    assert result.returncode not in (0, 124)
    assert "[rank 1] error: record 7: dog.png cannot be read" in result.stderr
    assert result.stderr.splitlines()[-1] == "rank 1 ended the run: record 7: dog.png cannot be read"
    assert time.monotonic() - start < 120, "the other rank was left waiting"


@pytest.mark.slow
def test_two_nodes_on_one_machine_train_as_one(tmp_path: Path) -> None:
    base = make_tiny_llava(tmp_path / "base")
    Image.new("RGB", (IMAGE_SIZE, IMAGE_SIZE), "red").save(tmp_path / "red.png")
    turns = [{"from": "human", "value": "<image>\nWhat color?"}, {"from": "gpt", "value": "red"}]
    rows = [{"id": str(index), "image": "red.png", "conversations": turns} for index in range(16)]
    (tmp_path / "records.json").write_text(json.dumps(rows))
    (tmp_path / "hosts").write_text("node-a slots=1\nnode-b slots=1\n")
    shared = environment(
        MODEL=str(base),
        DATA=str(tmp_path / "records.json"),
        IMAGES=str(tmp_path),
        OUTPUT=str(tmp_path / "run"),
        HOSTFILE=str(tmp_path / "hosts"),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(free_port()),
        GLOBAL_BATCH="4",
        PER_GPU_BATCH="2",
    )
    flags = ["--max_steps", "2", "--dataloader_num_workers", "0"]
    nodes = [
        subprocess.Popen(
            ["bash", str(ROOT / "scripts" / "finetune_lora.sh"), *flags],
            env={**shared, "NODE_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=tmp_path,
        )
        for rank in (0, 1)
    ]
    said = [node.communicate(timeout=300)[0] for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], "\n\n".join(text[-2000:] for text in said)
    assert json.loads((tmp_path / "run" / "run.json").read_text())["world_size"] == 2
    assert "4 records a step = 2 process(s) x 2 x 1 accumulated" in said[0]
    assert (tmp_path / "run" / "adapter_config.json").is_file()
