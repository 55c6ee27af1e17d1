"""The pretended runs of the tests, all in one process, for the guard has to be loaded before torch.

python -m tests.pretended_gpu.jobs OUT.pickle
"""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import sys
import tempfile
import traceback
from collections.abc import Callable
from dataclasses import replace
from functools import partial
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

PEERS = {
    f"{trainer}{', checkpointed' if checkpointing else ''}": (trainer, checkpointing)
    for trainer in ("ours", "transformers")
    for checkpointing in (False, True)
}
"""A step of each at the same batch, without padding, for that is what a padded trainer does best."""
ASKED: dict[str, dict[str, Any]] = {
    "answers": {"model": SEVEN, "mode": "full"},
    "answers on a T4": {"model": SEVEN, "mode": "full", "card": "T4"},
    "answers in 4 bit": {"model": SEVEN, "mode": "qlora"},
    "1.6 answers": {"model": MISTRAL, "mode": "full", "max_length": 4096, "batch": 1},
}


def main(out: Path) -> None:
    """Run every job and write its facts, or its traceback, by name."""
    from llava_finetune.pretended_gpu.guard import load

    load()
    from benchmarks.pretended_peers import job_of, step
    from llava_finetune.pretended_gpu.answering import ask
    from llava_finetune.pretended_gpu.facts import facts_of
    from llava_finetune.pretended_gpu.training import job_from, run

    calls: dict[str, Callable[[], Any]] = {}
    for name, values in JOBS.items():
        calls[name] = partial(run, job_from({**SHORT, **values}))
    for name, values in ASKED.items():
        calls[name] = partial(ask, job_from({**SHORT, **values}))
    with tempfile.TemporaryDirectory() as work:
        small = small_vocabulary(Path(work))
        for name, (trainer, checkpointing) in PEERS.items():
            calls[name] = partial(step, replace(job_of("alike", checkpointing, layers=2), model=small), trainer)
        found = {name: outcome(call, facts_of) for name, call in calls.items()}
    with contextlib.suppress(FileNotFoundError):
        out.unlink()
    out.write_bytes(pickle.dumps(found))


def outcome(call: Callable[[], Any], facts_of: Callable[[Any], Any]) -> Any:
    """The facts of what was run, or the traceback."""
    try:
        return facts_of(call())
    except Exception:
        return traceback.format_exc()


def small_vocabulary(folder: Path) -> str:
    """A 7B's config with a small vocabulary: of two layers' step the head, which is ours to spare, takes nothing."""
    from llava_finetune.planning.from_config import read_config

    config = {**read_config(SEVEN)[0], "vocab_size": 512}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return str(folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
