"""llava-finetune doctor: each finding with its status, the true error of a broken package, and what mends it."""

import json
from pathlib import Path

import pytest

from llava_finetune.doctor import command as doctor
from llava_finetune.doctor import machine_checks, model_checks
from llava_finetune.doctor.command import Package
from llava_finetune.doctor.machine_checks import BROKEN, OK, WARNING, Finding
from llava_finetune.machine import Gpu


def test_a_package_that_imports_is_ok_with_its_version() -> None:
    found = doctor.check_package(Package("numpy", doctor.plain("numpy")))
    assert found.status == OK and found.found[0].isdigit()


def test_a_broken_package_shows_its_own_error() -> None:
    code = "raise ImportError('undefined symbol: _ZN3c10 in flash_attn_2_cuda')"
    found = doctor.check_package(Package("flash-attn", code, needed=False, mend="pip uninstall -y flash-attn"))
    assert found == Finding(
        "flash-attn",
        BROKEN,
        "ImportError: undefined symbol: _ZN3c10 in flash_attn_2_cuda",
        "pip uninstall -y flash-attn",
    )


def test_a_package_that_kills_its_process_is_told_from_the_others() -> None:
    found = doctor.check_package(Package("bad", "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"))
    assert (found.status, found.found) == (BROKEN, "its import is killed by signal 11")


def test_a_missing_extra_is_no_fault() -> None:
    found = doctor.check_package(Package("no-such", "import no_such", needed=False, without="no 4-bit and 8-bit"))
    assert (found.status, found.found) == (OK, "not installed: no 4-bit and 8-bit")


def test_a_missing_needed_package_is_broken() -> None:
    found = doctor.check_package(Package("no-such", "import no_such"))
    assert (found.status, found.mend) == (BROKEN, "bash scripts/setup.sh")


def test_no_compiler_is_broken_with_the_package_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(machine_checks, "LINUX", True)
    found = machine_checks.check_compiler(str(tmp_path))
    assert (found.status, found.found) == (BROKEN, "none of c++, g++, clang++ on PATH")
    assert found.mend.startswith("apt install g++")


@pytest.mark.parametrize(("free", "status"), [(64 * 2**20, WARNING), (8 * 10**9, OK), (None, OK)])
def test_a_containers_default_shared_memory_is_a_warning(free: int | None, status: str) -> None:
    assert machine_checks.check_shm(free).status == status


def test_a_full_disk_and_little_memory_are_warnings() -> None:
    assert machine_checks.check_disk(10**9).status == WARNING and machine_checks.check_disk(10**11).status == OK
    assert machine_checks.check_ram(10**9).status == WARNING and machine_checks.check_ram(10**11).status == OK


def test_a_gpu_that_torch_cannot_use_is_broken_with_the_pin_to_install() -> None:
    fake = [Gpu(0, "NVIDIA Fake", 24 * 10**9)]
    found = machine_checks.check_gpu(fake, None, "9.9.9")
    assert found.status == BROKEN and found.found.startswith("NVIDIA Fake 24.0 GB, but torch cannot use it")
    assert "torch==9.9.9" in found.mend
    assert machine_checks.check_gpu(fake, "12.9", "9.9.9").found == "NVIDIA Fake 24.0 GB, CUDA 12.9 in torch"
    assert machine_checks.check_gpu([], None, "9.9.9").status == OK


@pytest.mark.parametrize(
    ("release", "status", "text"),
    [
        ("Cuda compilation tools, release 12.4, V12.4.99", OK, "12.4"),
        ("Cuda compilation tools, release 11.8, V11.8.89", WARNING, "is 11.8, torch was built with CUDA 12.9"),
        (None, WARNING, "not found: DeepSpeed cannot build its CPU Adam"),
    ],
)
def test_cudas_compiler_is_told_from_a_missing_or_other_one(
    release: str | None, status: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_HOME", raising=False)
    if release:
        (tmp_path / "nvcc").write_text(f"#!/bin/sh\necho '{release}'\n")
        (tmp_path / "nvcc").chmod(0o755)
    found = machine_checks.check_nvcc("12.9", str(tmp_path))
    assert found.status == status and text in found.found
    assert status == OK or "cuda-nvcc=12.9" in found.mend
    assert machine_checks.check_nvcc(None, str(tmp_path)).status == OK


def test_a_lock_of_a_killed_build_is_a_warning_with_its_removal_and_a_run_removes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import os

    from llava_finetune.training.beginning import drop_stale_locks

    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    assert machine_checks.check_locks(machine_checks.extensions_folder()).status == OK
    lock = tmp_path / "py311_cpu" / "deepspeed_shm_comm" / "lock"
    lock.parent.mkdir(parents=True)
    lock.touch()
    os.utime(lock, (0, 0))
    found = machine_checks.check_locks(machine_checks.extensions_folder())
    assert (found.status, found.mend) == (WARNING, f"rm {lock}")
    said: list[str] = []
    drop_stale_locks(said.append)
    assert said == [f"removed a lock that a killed build left: {lock}"]
    assert not lock.exists()


def test_a_missing_patched_tree_names_apply(tmp_path: Path) -> None:
    found = doctor.check_tree(tmp_path)
    assert (found.status, found.mend) == (BROKEN, "python -m patches apply")
    assert "no patched upstream there" in found.found


def test_a_version_off_its_pin_is_a_warning(tmp_path: Path) -> None:
    import numpy

    pins = tmp_path / "constraints.txt"
    pins.write_text("# pins\nnumpy==1.0  # old\nno-such-package==3\ntorch==0.1 ; python_version < '3.0'\n")
    found = doctor.check_pins(pins)
    assert found.status == WARNING
    assert found.found == f"1 differ: numpy {numpy.__version__} (pinned 1.0)"


def test_the_pins_of_this_python_are_read(root: Path) -> None:
    pins = doctor.read_pins(root / "constraints.txt")
    names = [name for name, _ in pins]
    assert "torch" in names and len(names) == len(set(names)), "one pin a package for each Python"


def test_every_finding_that_is_not_ok_says_how_to_mend_it() -> None:
    text = doctor.line(Finding("RAM", WARNING, "1.0 GB available", "close other programs"))
    assert text.splitlines()[0].startswith("warning  RAM")
    assert text.splitlines()[1].strip() == "mend: close other programs"


def test_findings_are_json_and_broken_ones_exit_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "examine", lambda root: iter([Finding("a", OK, "x"), Finding("b", BROKEN, "y", "z")]))
    assert doctor.main(["--json"]) == 1
    answer = json.loads(capsys.readouterr().out)
    assert answer[1] == {"name": "b", "status": "broken", "found": "y", "mend": "z"}
    monkeypatch.setattr(doctor, "examine", lambda root: iter([Finding("a", OK, "x"), Finding("c", WARNING, "y", "z")]))
    assert doctor.main([]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "1 ok, 1 warning, 0 broken"


@pytest.mark.slow
def test_the_environment_of_the_tests_is_sound(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Each import takes seconds; these stand for all.
    few = [package for package in doctor.PACKAGES if package.name in ("torch", "deepspeed", "peft", "llava (patched)")]
    monkeypatch.setattr(doctor, "PACKAGES", few)
    doctor.main(["--json"])
    findings = {entry["name"]: entry for entry in json.loads(capsys.readouterr().out)}
    for name in ("python", "torch", "deepspeed", "peft", "llava (patched)", "patched tree", "compiler"):
        assert findings[name]["status"] != BROKEN, findings[name]


def test_a_model_in_one_dtype_passes_and_a_stray_module_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch

    from llava_finetune.model import loading
    from tests.tiny import make_tiny_llava

    folder = str(make_tiny_llava(tmp_path / "model"))
    assert model_checks.check_model(folder, None, "bf16", "cpu", 16) == 0
    out = capsys.readouterr().out
    assert "vision tower      bfloat16    cpu" in out and "stray" not in out

    loaded = loading.load(folder, dtype="bf16", device="cpu")
    loaded.model.get_model().mm_projector[0].to(torch.float16)
    monkeypatch.setattr(loading, "load", lambda *arguments, **keywords: loaded)
    assert model_checks.check_model(folder, None, "bf16", "cpu", 16, as_json=True) == 1
    rows = json.loads(capsys.readouterr().out)["rows"]
    stray = [row for row in rows if row["stray"]]
    assert [(row["part"], row["dtype"], row["tensors"]) for row in stray] == [("projector", "float16", 2)]
    assert model_checks.check_model(folder, None, "bf16", "cpu", 16) == 1
    assert "2 of " in (last := capsys.readouterr().out.splitlines()[-1]) and "are not bfloat16" in last
