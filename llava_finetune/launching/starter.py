"""What starts the processes: deepspeed, torchrun or Python, the words before `train`, and the processes' variables.

words, variables = starter(settings, Path("deepspeed_configs/zero2.json"))
"""

import os
import sys
from pathlib import Path

from llava_finetune.errors import UsageError
from llava_finetune.launching.processes import free_port
from llava_finetune.launching.settings import Settings


def starter(settings: Settings, config: Path | None) -> tuple[list[str], dict[str, str]]:
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
