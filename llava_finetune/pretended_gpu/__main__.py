"""One pretended training from a line of JSON, its facts as JSON: what `llava-finetune plan --exact` starts.

Keys: model, and those of Setting (mode, batch, checkpointing, text_tokens, ...); card (H200, A100, 4090, T4), layers,
accumulation, flags.

    python -m llava_finetune.pretended_gpu '{"model": "liuhaotian/llava-v1.5-7b", "mode": "lora", "batch": 4}'
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence

from llava_finetune.errors import UsageError
from llava_finetune.pretended_gpu.guard import load


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job that the first argument describes; UsageError for what is no job."""
    words = sys.argv[1:] if argv is None else argv
    if len(words) != 1:
        raise UsageError(f"one job as JSON is expected, not {len(words)} words: {__doc__.splitlines()[-2].strip()}")  # type: ignore[union-attr]
    began = time.monotonic()
    load()
    from llava_finetune.pretended_gpu.facts import facts_of
    from llava_finetune.pretended_gpu.training import job_from, run

    facts = facts_of(run(job_from({"record": True, **json.loads(words[0])})))
    answer = {"peak": facts.peak, "reserved": facts.reserved, "parts": facts.parts, "flops": facts.flops()}
    print(json.dumps(answer | {"tokens": sum(facts.lengths), "seconds": round(time.monotonic() - began, 1)}))
    return 0


if __name__ == "__main__":
    from llava_finetune.cli import run_command

    for name, value in (("HF_HUB_OFFLINE", "1"), ("TRANSFORMERS_VERBOSITY", "error"), ("PYTHONWARNINGS", "ignore")):
        os.environ.setdefault(name, value)
    raise SystemExit(run_command("llava_finetune.pretended_gpu.__main__", sys.argv[1:]))
