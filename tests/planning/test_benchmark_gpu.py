"""benchmarks/gpu.sh runs to its end: its first run on a rented GPU must not be the first run of its lines."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import gpu, gpu_card


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


def test_a_figure_that_fails_leaves_the_others_of_its_row(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise ValueError("e4m3 has no kernel here\nsecond line")

    monkeypatch.setattr("torch._scaled_mm", refuse)
    found = gpu_card.peaks(tiny=True)
    assert found["fp8_tflops"] == "failed ValueError: e4m3 has no kernel here"
    assert found["bf16_tflops"] > 0 and found["copy_tb"] > 0
    assert gpu.failed(found) and not gpu.failed({"bf16_tflops": 1.0})
    row = {"tokens_per_second": 10.0, "seconds": 1.0, "flops": 10**12, "factors": "fp8", "peak": 0}
    assert "| fp8 | 10 | 1.00 |  | 0.00 |" in gpu.table({"peaks": found, "fp8": row})


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("print('facts: {\"a\": 1}'); print('bye')", {"a": 1}),
        ("print('bye')", {"failed": "it ended without a result"}),
        ("import sys; print('why', file=sys.stderr); sys.exit(3)", {"failed": "exit code 3: why"}),
        ("import time; time.sleep(60)", {"failed": "more than 1 s"}),
    ],
)
def test_a_process_that_ends_in_any_way_is_a_row(
    program: str, reason: dict[str, object], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    real = subprocess.run
    monkeypatch.setattr(subprocess, "run", lambda _, **how: real([sys.executable, "-c", program], **how))
    limit = 1 if "sleep" in program else 60
    assert gpu.run_apart(gpu.Job("lora"), limit, tmp_path) == reason
    assert (tmp_path / "gpu.log").read_text(encoding="utf-8").startswith("==== lora\n")


def test_the_table_is_there_after_each_row(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def measure(job: gpu.Job) -> dict[str, object]:
        if job.name == "fp8":
            raise KeyboardInterrupt
        return {"tokens_per_second": 10.0, "seconds": 1.0, "flops": 10**12, "factors": "bf16", "peak": 0}

    monkeypatch.setattr(gpu, "measure", measure)
    with pytest.raises(KeyboardInterrupt):
        gpu.main(["--rehearse", "--rows", "lora,fp8", "--output", str(tmp_path)])
    assert "| lora | 10 | 1.00 |" in (tmp_path / "gpu.md").read_text(encoding="utf-8")


def test_no_row_begins_when_its_time_is_over(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(gpu, "SECONDS", 0.0)
    assert gpu.main(["--rehearse", "--output", str(tmp_path)]) == 0
    found = json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8"))
    assert all(row == {"left out": "no time was left"} for row in found.values())
