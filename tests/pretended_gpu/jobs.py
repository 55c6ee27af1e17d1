"""The pretended trainings of the tests, all in one process, for the guard has to be loaded before torch.

python -m tests.pretended_gpu.jobs OUT.pickle
"""

from __future__ import annotations

import contextlib
import os
import pickle
import sys
import traceback
from pathlib import Path
from typing import Any

os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_VERBOSITY="error", PYTHONWARNINGS="ignore")

SEVEN = "liuhaotian/llava-v1.5-7b"
MISTRAL = "liuhaotian/llava-v1.6-mistral-7b"
SHORT = {"layers": 2, "record": True, "text_tokens": 44, "supervised_tokens": 8, "batch": 2}

JOBS: dict[str, dict[str, Any]] = {
    "lora": {"model": SEVEN, "mode": "lora", "checkpointing": False},
    "lora, checkpointed": {"model": SEVEN, "mode": "lora"},
    "lora, accumulated": {"model": SEVEN, "mode": "lora", "accumulation": 2},
    "lora, peft's layers": {"model": SEVEN, "mode": "lora", "checkpointing": False, "flags": ["--fast_lora", "False"]},
    "lora, no dropout": {"model": SEVEN, "mode": "lora", "checkpointing": False, "dropout": 0.0},
    "lora in the tower": {"model": SEVEN, "mode": "lora", "targets": "language,vision"},
    "lora on a T4": {"model": SEVEN, "mode": "lora", "card": "T4"},
    "qlora": {"model": SEVEN, "mode": "qlora"},
    "full": {"model": SEVEN, "mode": "full"},
    "pretrain": {"model": SEVEN, "mode": "pretrain"},
    "1.6": {"model": MISTRAL, "mode": "lora", "max_length": 4096, "batch": 1},
    "long answers": {"model": SEVEN, "mode": "lora", "supervised_tokens": 700, "text_tokens": 740},
    "lora, shared pictures": {"model": SEVEN, "mode": "lora", "checkpointing": False, "batch": 4, "shared": [[4, 1]]},
    "lora, fp8 base": {"model": SEVEN, "mode": "lora", "base_dtype": "fp8", "checkpointing": False},
    "lora, one step": {"model": SEVEN, "mode": "lora", "steps": 1, "gradients": True},
    "profiled": {"model": SEVEN, "mode": "lora", "steps": 3, "flags": ["--profile", "1"]},
}


def main(out: Path) -> None:
    """Run every job and write its facts, or its traceback, by name."""
    from llava_finetune.pretended_gpu.guard import load

    load()
    from llava_finetune.pretended_gpu.facts import facts_of
    from llava_finetune.pretended_gpu.training import job_from, run

    found: dict[str, Any] = {}
    for name, values in JOBS.items():
        try:
            found[name] = facts_of(run(job_from({**SHORT, **values})))
        except Exception:
            found[name] = traceback.format_exc()
    with contextlib.suppress(FileNotFoundError):
        out.unlink()
    out.write_bytes(pickle.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
