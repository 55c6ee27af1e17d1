"""What starts the processes: deepspeed, torchrun or Python, the words before `train`, and the processes' variables.

words, variables = starter(request, Path("deepspeed_configs/zero2.json"))
"""

import os
import sys
from pathlib import Path

from llava_finetune.errors import UsageError
from llava_finetune.launching.launch_request import LaunchRequest
from llava_finetune.launching.processes import free_port


def starter(request: LaunchRequest, config: Path | None) -> tuple[list[str], dict[str, str]]:
    """The words before `train`, and the variables that the processes get."""
    variables = {"TOKENIZERS_PARALLELISM": "false"}
    if not request.on_gpu:
        threads = max(1, (os.cpu_count() or 1) // request.processes)
        variables |= {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": request.get("OMP_NUM_THREADS", str(threads))}
    if not request.get("TORCH_EXTENSIONS_DIR"):
        variables["TORCH_EXTENSIONS_DIR"] = str(Path(sys.prefix) / "torch_extensions")
    launcher = request.get("LAUNCHER", "torchrun" if request.get("NNODES") else "deepspeed")
    if launcher not in ("deepspeed", "torchrun"):
        raise UsageError(f"LAUNCHER={launcher}: give deepspeed or torchrun")
    if request.hosts or (config is not None and launcher == "deepspeed"):
        return [*_deepspeed(request), "--module", "llava_finetune"], variables
    if request.world_size > 1 or launcher == "torchrun":
        return [*_torchrun(request), "-m", "llava_finetune"], variables
    return ["python", "-m", "llava_finetune"], variables


def _deepspeed(request: LaunchRequest) -> list[str]:
    words = ["deepspeed", "--no_local_rank", "--master_port", _port(request)]
    visible = request.get("CUDA_VISIBLE_DEVICES")
    if request.hosts:
        words += ["--hostfile", request.get("HOSTFILE")]
        if request.get("NODE_RANK"):
            words += ["--no_ssh", "--node_rank", request.get("NODE_RANK")]
        if request.get("MASTER_ADDR"):
            words += ["--master_addr", request.get("MASTER_ADDR")]
    elif request.on_gpu and visible:
        chosen = ",".join(visible.split(",")[: request.processes])
        words += ["--include", f"localhost:{chosen}"]
    else:
        words += ["--num_gpus", str(request.processes)]
    return words


def _torchrun(request: LaunchRequest) -> list[str]:
    words = ["torchrun", "--nproc_per_node", str(request.processes)]
    if request.num_nodes == 1:
        return [*words, "--master_port", _port(request)]
    missing = [name for name in ("NODE_RANK", "MASTER_ADDR") if not request.get(name)]
    if missing:
        raise UsageError(f"NNODES={request.num_nodes} needs {' and '.join(missing)} too; see docs/many-nodes.md")
    words += ["--nnodes", str(request.num_nodes), "--node_rank", request.get("NODE_RANK")]
    return [*words, "--master_addr", request.get("MASTER_ADDR"), "--master_port", _port(request)]


def _port(request: LaunchRequest) -> str:
    """MASTER_PORT, else a free one; between machines, which must agree on it, 29500."""
    fixed = request.get("MASTER_PORT")
    alone = request.num_nodes == 1 and not request.dry_run
    return fixed or str(free_port() if alone else 29500)
