"""Mixed text and picture records never hang: one rank may have a batch of text alone while the other's holds pictures.

Random mixes on two ranks; a rank that skips a module that the other gathers would wait for ever. Each rank's batch
holds pictures or text alone, which makes four kinds of step: every kind comes after every kind.
"""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.families.cells import MODES
from tests.oracle.runs import ROOT, Job, run_jobs

STEPS = 80
RUNS = {
    # mode, family, config, and whether layers are checkpointed as the launchers do
    "ZeRO-2, full": ("full", "llava-1.5", "zero2", False),
    "ZeRO-2, LoRA in the tower": ("LoRA in tower", "1.6-vicuna", "zero2", True),
    "ZeRO-3, full with tower": ("full, tower lr", "llava-1.5", "zero3", False),
}


@pytest.mark.slow(seconds=100)
def test_random_mixes_end_whatever_step_comes_after_which(
    models: dict[str, Path], data: Path, tmp_path: Path, note: Callable[[str], None]
) -> None:
    chosen = random.Random(4)
    pool = json.loads((data / "mixed.json").read_text())
    for record in pool:  # what is taught tells which kind it is
        record["conversations"][1]["value"] = "red and blue" if "image" in record else "four"
    texts = [record for record in pool if "image" not in record]
    pictures = [record for record in pool if "image" in record]
    records = [chosen.choice(chosen.choice((texts, pictures))) for _ in range(2 * STEPS)]
    (tmp_path / "random.json").write_text(json.dumps(records))
    jobs = []
    for name, (mode, family, config, checkpointing) in RUNS.items():
        flags = [
            "--model_name_or_path", models[family], "--version", "v1", "--image_folder", data, "--data_path",
            tmp_path / "random.json", "--max_steps", STEPS, "--per_device_train_batch_size", "1", "--learning_rate",
            "1e-4", "--logging_steps", "1", "--save_strategy", "no", "--report_to", "none", "--precision", "fp32",
            "--gradient_checkpointing", checkpointing, "--check_data", "False",
            "--deepspeed", ROOT / "deepspeed_configs" / f"{config}.json",
        ]  # fmt: skip
        jobs.append(Job(name, [*flags, *MODES[mode]], tmp_path / name.replace(" ", "-"), 2, seconds=900))
    for done in run_jobs("ours", jobs, tmp_path / "jobs").values():
        assert len(done.require().losses) == STEPS
        kinds = list(zip(*([len(batch[0]) for batch in rank] for rank in done.taught), strict=True))
        assert len(set(itertools.pairwise(kinds))) == 4 * 4
        note(f"mixed records, two ranks, {done.name}: {STEPS} steps in {done.seconds:.0f} s")
