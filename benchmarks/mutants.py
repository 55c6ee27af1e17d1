"""Mutants: small faults put into the code one at a time, to see whether the tests notice them.

    bash scripts/mutants.sh                                  # 100 mutants, the same ones every time
    bash scripts/mutants.sh --area masking merge             # those of them that are in two areas
    bash scripts/mutants.sh --only splice.py:91              # those of them at one line

Each mutant is made in memory and run against the fast tests of its area, in a forked child of a process that has
imported the libraries once. No file is changed, so a kill leaves nothing behind. mutmut 3 keeps every function once for
each of its mutants and takes no fixed sample over several areas; cosmic-ray changes the files where they lie, and
starts a Python with its imports of many seconds for each mutant. Texts of messages, annotations and imports are left
alone. Tests that start another Python do not see the mutant, and count for nothing here.

Prints a line for each mutant and a table. Exit codes: 0 at least 90 % were killed, 1 fewer, or the tests fail without
a mutant.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import importlib.abc
import importlib.machinery
import importlib.util
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # before this folder, whose data_prep.py is not the package

from benchmarks.faults import changed, faults  # noqa: E402

COUNT, SEED, ENOUGH = 100, 18, 0.9
LIBRARIES = (
    "torch", "transformers", "peft", "accelerate", "deepspeed", "bitsandbytes", "datasets", "PIL.Image", "pytest",
    "hypothesis", "numpy", "msgspec", "safetensors.torch", "sentencepiece", "pydantic", "httpx", "uvicorn", "starlette",
    "transformers.models.llama.modeling_llama", "transformers.models.clip.modeling_clip", "transformers.trainer",
    "transformers.models.mistral.modeling_mistral", "matplotlib.figure", "deepspeed.ops",
)  # fmt: skip


@dataclass(frozen=True)
class Area:
    """What is mutated, and the fast tests that answer for it, the quickest first."""

    files: tuple[str, ...]
    tests: tuple[str, ...]


MERGE = (
    "a_whole_model_has_nothing_to_merge", "a_difference_as_large_as_allowed_is_accepted_and_told_as_json",
    "a_projector_alone_is_merged", "bf16_is_merged_within_its_noise", "the_difference_in_4_bit_is_printed",
    "an_adapter_in_the_tower_is_merged_and_the_tower_kept", "a_broken_merge_is_noticed_and_nothing_is_written",
    "another_answer_is_refused_with_both", "twice_the_allowed_difference_is_refused",
    "logits_may_differ_by_the_dtypes_noise_at_their_size", "nan_in_an_adapter_is_refused",
    "adapter_tensors_that_fit_nothing_are_refused", "a_wrong_base_is_refused_with_hashes_and_names",
)  # fmt: skip
AREAS = {
    "masking": Area(
        ("llava_finetune/data/masking.py", "llava_finetune/data/rendering.py"),
        ("tests/data/test_masking.py", "tests/data/test_independent_turns.py"),
    ),
    "splice": Area(
        ("llava_finetune/model/splice.py", "llava_finetune/data/layout.py"),
        (
            "tests/data/test_layout.py",
            "tests/model/test_splice.py",
            "tests/data/test_shared_pictures.py",
            "tests/data/test_independent_turns.py",
        ),
    ),
    "loss": Area(
        ("llava_finetune/kernels/head_loss.py", "llava_finetune/model/modeling.py"),
        ("tests/kernels/test_head_loss.py", "tests/model/test_modeling.py", "tests/model/test_splice.py"),
    ),
    "resume": Area(
        ("llava_finetune/training/resume.py", "llava_finetune/saved/checkpoints.py"),
        (
            "tests/saved/test_going_on.py",
            "tests/saved/test_checkpoints.py",
        ),
    ),
    "metrics": Area(
        ("llava_finetune/evaluation/metrics.py", "llava_finetune/evaluation/intervals.py"),
        ("tests/evaluation/test_exactly.py", "tests/evaluation/test_metrics.py", "tests/evaluation/test_intervals.py"),
    ),
    "merge": Area(
        ("llava_finetune/merge/weights.py", "llava_finetune/merge/command.py"),
        ("tests/merge/test_parts.py", *(f"tests/merge/test_merge.py::test_{name}" for name in MERGE)),
    ),
    "picture": Area(
        ("data_prep/records/picture.py", "data_prep/records/names.py"),
        (
            "tests/data_prep/test_picture_names.py",
            "tests/data_prep/test_records_and_pictures.py",
            "tests/data_prep/test_one_door.py::test_a_tiff_that_is_not_read_is_called_by_its_bands",
            "tests/data/test_pictures.py",
            "tests/data_prep/test_bounds.py",
        ),
    ),
    "guards": Area(
        ("llava_finetune/serve/guards.py",),
        ("tests/serve/test_guards.py", "tests/serve/test_security.py"),
    ),
}


@dataclass(frozen=True)
class Mutant:
    """One fault: the file, the place in its list of faults, the line, and the line before and after."""

    area: str
    file: str
    number: int
    line: int
    change: str


def mutants(area: str) -> list[Mutant]:
    """All mutants of an area, in the order of its files."""
    found = []
    for file in AREAS[area].files:
        source = (ROOT / file).read_text(encoding="utf-8")
        for number, (statement, _) in enumerate(faults(ast.parse(source))):
            found.append(Mutant(area, file, number, statement.lineno, changed(source, number)[1]))
    return found


def sample(areas: Sequence[str], count: int, seed: int) -> list[Mutant]:
    """A fixed sample: as many of each area of AREAS, give or take one, drawn with `seed`; of it, those of `areas`."""
    found = []
    for place, area in enumerate(AREAS):
        every, share = mutants(area), count // len(AREAS) + (place < count % len(AREAS))
        chosen = random.Random(f"{seed} {area}").sample(every, min(share, len(every)))
        found += sorted(chosen, key=lambda one: (one.file, one.line, one.number)) if area in areas else []
    return found


def is_at(mutant: Mutant, places: Sequence[str] | None) -> bool:
    """Whether a mutant is at one of these lines (`splice.py:91`); None: any line."""
    return places is None or any(f"/{mutant.file}:{mutant.line}".endswith(f"/{place}") for place in places)


class MutantLoader(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Gives the module of a mutant its changed code at import; everything else is imported as ever."""

    def __init__(self, mutant: Mutant) -> None:
        self.name = mutant.file.removesuffix(".py").replace("/", ".")
        self.path = ROOT / mutant.file
        source = self.path.read_text(encoding="utf-8")
        self.code = compile(changed(source, mutant.number)[0], str(self.path), "exec")

    def find_spec(self, name: str, path: object = None, target: object = None) -> importlib.machinery.ModuleSpec | None:
        """The mutant's own module."""
        if name != self.name:
            return None
        return importlib.util.spec_from_file_location(name, self.path, loader=self)

    def exec_module(self, module: ModuleType) -> None:
        """Run the changed code."""
        exec(self.code, module.__dict__)


def warm_up() -> None:
    """Import the libraries, and nothing of ours: a child imports ours with its fault in it."""
    for name in LIBRARIES:
        importlib.import_module(name)
    import torch

    torch.set_num_threads(1)
    ours = [name for name in sys.modules if name.partition(".")[0] in ("llava_finetune", "data_prep", "llava")]
    assert not ours, ours


def run_tests(area: Area, mutant: Mutant | None, log: Path, limit: float) -> str:
    """What the tests said: `killed`, `survived`, or `killed by time`."""
    scratch = Path(tempfile.mkdtemp(prefix="mutant-"))
    pid = os.fork()
    if not pid:
        _be_child(area, mutant, log, scratch)
    try:
        return _wait(pid, limit)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _be_child(area: Area, mutant: Mutant | None, log: Path, scratch: Path) -> None:
    code = 1
    try:
        os.setsid()
        with log.open("a") as stream:
            os.dup2(stream.fileno(), 1)
            os.dup2(stream.fileno(), 2)
        os.environ["TMPDIR"] = tempfile.tempdir = str(scratch)
        if mutant:
            sys.meta_path.insert(0, MutantLoader(mutant))
        import pytest

        code = int(
            pytest.main(["-x", "-q", "-m", "not slow", "-k", "not many_records", "-p", "no:cacheprovider", *area.tests])
        )
        sys.stdout.flush()
    finally:
        os._exit(code)


def _wait(pid: int, limit: float) -> str:
    end = time.monotonic() + limit
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        late = time.monotonic() > end
        if done or late:
            break
        time.sleep(0.02)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)  # what the tests started, too
    if not done:
        os.waitpid(pid, 0)
        return "killed by time"
    return "survived" if os.waitstatus_to_exitcode(status) == 0 else "killed"


def parser() -> argparse.ArgumentParser:
    """The flags."""
    out = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    out.add_argument("--area", choices=AREAS, nargs="+", default=list(AREAS), help="what is mutated (default: all)")
    out.add_argument("--count", type=int, default=COUNT, help=f"mutants in all areas (default: {COUNT})")
    out.add_argument("--seed", type=int, default=SEED, help=f"which ones (default: {SEED})")
    out.add_argument("--only", nargs="+", metavar="FILE:LINE", help="those at these lines (splice.py:91)")
    out.add_argument("--list", action="store_true", help="list the mutants and run none")
    out.add_argument("--log", type=Path, default=ROOT / "build" / "mutants.log", help="what the tests print")
    return out


def main(argv: Sequence[str] | None = None) -> int:
    """Run the sample; 0 when enough were killed."""
    a = parser().parse_args(argv)
    drawn = sample(a.area, a.count, a.seed)
    chosen = [one for name in a.area for one in drawn if one.area == name and is_at(one, a.only)]
    if not chosen:
        print(f"none of the {len(drawn)} mutants drawn is at these lines; --list shows where they are")
        return 1
    if a.list:
        print("\n".join(f"{one.area:<8} {one.file}:{one.line} {one.change}" for one in chosen))
        return 0
    os.chdir(ROOT)
    a.log.parent.mkdir(parents=True, exist_ok=True)
    a.log.write_text("")
    warm_up()
    results: list[str] = []
    for name in dict.fromkeys(one.area for one in chosen):
        own = [one for one in chosen if one.area == name]
        found = run_area(name, own, a.log)
        if found is None:
            return 1
        results += found
    print(table(chosen, results))
    return 0 if results.count("survived") <= (1 - ENOUGH) * len(results) else 1


def run_area(name: str, own: Sequence[Mutant], log: Path) -> list[str] | None:
    """What became of an area's mutants, a line printed for each; None where its tests fail without one."""
    start = time.monotonic()
    if run_tests(AREAS[name], None, log, 600) != "survived":
        print(f"{name}: its tests fail without a mutant; see {log}")
        return None
    limit = 30 + 4 * (time.monotonic() - start)
    print(f"{name}: its tests pass without a mutant, in {time.monotonic() - start:.0f} s", flush=True)
    results = []
    for one in own:
        start = time.monotonic()
        results.append(run_tests(AREAS[name], one, log, limit))
        spent = f"{time.monotonic() - start:5.1f} s"
        print(f"{results[-1]:<14} {spent}  {name:<8} {one.file}:{one.line}  {one.change}", flush=True)
    return results


def table(chosen: Sequence[Mutant], results: Sequence[str]) -> str:
    """Mutants and kills by area, as Markdown."""
    lines = ["| Area | Mutants | Killed |", "|---|---|---|"]
    areas = list(dict.fromkeys(one.area for one in chosen))
    for area in [*areas, None]:
        own = [result for one, result in zip(chosen, results, strict=True) if area in (one.area, None)]
        lines.append(f"| {area or 'all'} | {len(own)} | {len(own) - own.count('survived')} |")
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(main())
