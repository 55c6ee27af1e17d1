"""A profile's phases add up, its words name them, and a run with --profile writes them and trains as without."""

from __future__ import annotations

import json
import platform
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch
from torch.autograd import DeviceType

from llava_finetune.training import heap_trim
from llava_finetune.training.profiling import MEANING, Phases, kernel_seconds, summary
from tests.tiny import make_tiny_llava


def test_nested_phases_are_counted_once_each() -> None:
    phases = Phases()
    phases.enter("data")  # before the start nothing counts
    phases.start()
    began = time.perf_counter()
    phases.enter("language model")
    time.sleep(0.02)
    phases.enter("communication")
    time.sleep(0.01)
    phases.leave()
    phases.switch("loss")
    time.sleep(0.01)
    phases.leave()
    phases.stop()
    whole = time.perf_counter() - began
    assert set(phases.seconds) == {"other", "language model", "communication", "loss"}
    assert phases.seconds["language model"] >= 0.02
    assert phases.seconds["communication"] >= 0.01
    assert sum(phases.seconds.values()) == pytest.approx(whole, abs=0.005)


def test_the_summary_names_the_longest_phase_first_with_its_share() -> None:
    phases = dict.fromkeys(MEANING, 0.0) | {"optimizer": 0.25, "language model": 0.75}
    text = summary(
        {
            "steps": 4,
            "seconds_per_step": 1.0,
            "phases": phases,
            "idle": 0.125,
            "operators": [{"name": "aten::mm", "seconds": 3.0, "calls": 2}],
        }
    )
    lines = text.splitlines()
    assert lines[0] == "profile of 4 steps, 1.000 s each:"
    assert lines[1].split() == ["language", "model", "0.750", "s", "75.0%", "decoder", "layers,", "forward"]
    assert "of all that, idle            0.125 s  12.5%" in text
    assert lines[-1].endswith("aten::mm 100%")


def test_a_kernels_time_is_counted_once() -> None:
    """torch lists it twice, as the kernel's own and as its operator's; an annotation spans kernels that are listed."""
    gpu, cpu = DeviceType.CUDA, DeviceType.CPU
    rows = [
        SimpleNamespace(key=key, device_type=device, is_user_annotation=note, self_device_time_total=taken)
        for key, device, note, taken in [
            ("aten::mm", cpu, False, 3e6),
            ("sm90_xmma_gemm_bf16", gpu, False, 3e6),
            ("aten::add_", cpu, False, 1e6),
            ("vectorized_elementwise_kernel", gpu, False, 1e6),
            ("ProfilerStep", gpu, True, 4e6),
        ]
    ]
    assert kernel_seconds(rows) == 4


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, pictures: Path) -> dict[str, Path]:
    """The same tiny LoRA run with every switch on and a profile, and with every switch off."""
    from llava_finetune.config.arguments import parse
    from llava_finetune.training.train import train

    folder = tmp_path_factory.mktemp("runs")
    model = make_tiny_llava(folder / "model")
    made = {}
    compiled = "--torch_compile True --torch_compile_backend aot_eager"
    for name, switches in {
        "on": f"--profile 2 --loss_chunk 4 --dataloader_num_workers 1 --cache_features {folder / 'kept'} {compiled}",
        "off": "--unpadded False --fast_lora False --trim_heap False --loss_chunk 0",
    }.items():
        flags = (
            f"--model_name_or_path {model} --version v1 --data_path {pictures / 'records.json'} "
            f"--image_folder {pictures} --lora_enable True --lora_r 8 --lora_alpha 16 --lora_dropout 0 "
            f"--per_device_train_batch_size 3 --max_steps 6 --learning_rate 1e-3 --precision fp32 "
            f"--save_strategy no --report_to none --check_data False --output_dir {folder / name} {switches}"
        )
        train(parse(flags.split()))
        made[name] = folder / name
    return made


def losses(run: Path) -> list[float]:
    rows = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [row["loss"] for row in rows if "loss" in row]


@pytest.mark.slow
def test_losses_with_every_switch_on_equal_losses_with_every_switch_off(runs: dict[str, Path]) -> None:
    on, off = losses(runs["on"]), losses(runs["off"])
    assert len(on) == 6 and on[4] < on[0] > 0
    assert on == pytest.approx(off, rel=1e-4)


@pytest.mark.slow
def test_a_profiled_run_says_where_its_time_went(runs: dict[str, Path]) -> None:
    facts = json.loads((runs["on"] / "profile.json").read_text())
    assert facts["steps"] == 2
    spent = {name for name, seconds in facts["phases"].items() if seconds > 0}
    assert spent >= set(MEANING) - {"communication"}
    assert sum(facts["phases"].values()) == pytest.approx(facts["seconds_per_step"], rel=0.05)
    assert "aten::mm" in {row["name"] for row in facts["operators"]}
    assert (runs["on"] / "profile.txt").read_text().startswith("profile of 2 steps")
    assert (runs["on"] / "trace.json").stat().st_size > 0
    assert not (runs["off"] / "profile.json").exists()


def test_the_heap_is_trimmed_every_50_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    trims: list[int] = []
    monkeypatch.setattr(heap_trim, "trim", lambda: trims.append(1))
    callback = heap_trim.HeapTrim()
    for step in range(1, 121):
        callback.on_step_end(None, SimpleNamespace(global_step=step), None)
    assert len(trims) == 2


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc keeps freed memory until it is trimmed")
def test_trimming_gives_back_the_holes_that_freed_tensors_leave() -> None:
    kept = [torch.ones(25_000) for _ in range(400)]  # 40 MB in pieces that glibc takes from its heap
    holes = kept[::2]
    kept = kept[1::2]
    del holes
    before = psutil.Process().memory_info().rss
    assert heap_trim.trim()
    assert before - psutil.Process().memory_info().rss > 10_000_000
    assert kept
