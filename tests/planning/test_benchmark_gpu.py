"""benchmarks/gpu.sh runs to its end: its first run on a rented GPU must not be the first run of its lines."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import gpu


@pytest.mark.slow
def test_the_rehearsal_runs_every_row_and_writes_one_table(root: Path, tmp_path: Path) -> None:
    command = [sys.executable, str(root / "benchmarks" / "gpu.py"), "--rehearse", "--output", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    found = json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8"))
    assert list(found) == list(gpu.ROWS)
    assert found["numbers"]["attention"] < 2e-2 and found["numbers"]["fp8 product"] < 5e-2
    trained = {name for name, row in found.items() if "tokens_per_second" in row}
    assert {"lora", "fp8", "qlora", "transformers + peft", "shared pictures"} <= trained, found
    text = (tmp_path / "gpu.md").read_text(encoding="utf-8")
    assert all(f"| {name} |" in text for name in gpu.ROWS if name not in ("numbers", "peaks"))
    assert "the CPU (a rehearsal)" in text


def test_a_row_that_fails_leaves_its_reason_and_the_others(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def measure(job: gpu.Job) -> dict[str, object]:
        if job.name == "fp8":
            raise RuntimeError("no units\nsecond line")
        return {"tokens_per_second": 10.0, "seconds": 1.0, "flops": 10**12, "factors": "bf16", "peak": 0}

    monkeypatch.setattr(gpu, "measure", measure)
    assert gpu.main(["--rehearse", "--rows", "lora,fp8,lora, checkpointed", "--output", str(tmp_path)]) == 1
    text = (tmp_path / "gpu.md").read_text(encoding="utf-8")
    assert "| fp8 | | | | | | failed RuntimeError: no units |" in text
    assert text.count("| 10 | 1.00 |") == 2


def test_no_row_begins_when_its_time_is_over(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(gpu, "SECONDS", 0.0)
    assert gpu.main(["--rehearse", "--output", str(tmp_path)]) == 0
    found = json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8"))
    assert all(row == {"left out": "no time was left"} for row in found.values())
