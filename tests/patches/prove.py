"""Every patch proven alive: its named test passes with the whole series and fails without the patch.

    python -m patches prove                    every patch
    python -m patches prove serve_errors       these

A tree without the patch, and without those that need it, is written into a temporary folder; a forked child that has
the stack imported runs the test on it. Exit code 0: all are proven; 1: one is not; 2: an unknown name.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from patches.engine import Memory, judge
from patches.series import Patch, dependents, load_series
from patches.source import ROOT, find_source, read_pristine
from tests.patches.conftest import MADE, make_tiny
from tests.warm import fork, warm_up

FOLDER = "tests/patches/"
SECONDS = 600


@dataclass(frozen=True)
class Outcome:
    """How one test ended: `passed`, `failed`, or what kept it from running; and its last line of error."""

    how: str
    reason: str = ""


class Watch:
    """A pytest plugin that keeps how the test ended: the first thing that did not pass, else that it passed."""

    outcome: Outcome | None = None

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if self.outcome is not None and self.outcome.how != "passed":
            return
        if report.when == "call" or report.outcome != "passed":
            crash = getattr(report.longrepr, "reprcrash", None)
            reason = crash.message.splitlines()[0] if crash else ""
            self.outcome = Outcome(report.outcome if report.when == "call" else f"no answer in {report.when}", reason)


def write_tree(folder: Path, series: Sequence[Patch], pristine: Mapping[str, bytes], memory: Memory) -> Path:
    """`llava` under a series, as a folder for sys.path."""
    trees: dict = {}
    judge(series, pristine, trees, memory)
    for name, content in pristine.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(trees[name].code.encode() if name in trees else content)
    return folder


def in_child(work: Callable[[], int | None], tree: Path, tiny: Path, log: Path) -> int:
    """Start a child that imports `llava` from `tree`, also in the processes that it starts itself. Its pid."""

    def prepared() -> int | None:
        os.environ |= {"PYTHONPATH": os.pathsep.join((str(tree), str(ROOT))), MADE: str(tiny)}
        sys.path.insert(0, str(tree))
        return work()

    with log.open("w") as file:
        return fork(prepared, [file.fileno(), file.fileno()])


def run_test(test: str, results: Path) -> int:
    """Run one test in this process, and write how it ended."""
    watch = Watch()
    code = int(pytest.main(["-q", "-p", "no:cacheprovider", "--no-header", FOLDER + test], plugins=[watch]))
    if watch.outcome is not None:
        results.write_text(json.dumps([watch.outcome.how, watch.outcome.reason]))
    return code


@dataclass
class Bench:
    """Runs one test after another, each in a child of its own, a few at once; and keeps how they ended."""

    work: Path
    jobs: int
    running: dict[int, tuple[str, str, float]] = field(default_factory=dict)
    ended: dict[tuple[str, str], Outcome] = field(default_factory=dict)

    def make_models(self, tree: Path) -> None:
        """The tiny models, with the whole series."""
        pid = in_child(lambda: make_tiny(self.work / "tiny") and None, tree, self.work, self.work / "tiny.log")
        if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]):
            raise RuntimeError(f"the tiny models cannot be made:\n{(self.work / 'tiny.log').read_text()[-2000:]}")

    def start(self, name: str, tree: Path, test: str) -> None:
        """Run a test on a tree as soon as a place is free, unless that was done."""
        key = (name, test)
        if key in self.ended or key in {(name, test) for name, test, _ in self.running.values()}:
            return
        while len(self.running) >= self.jobs:
            self.wait()
        results = self._file(name, test, "json")
        log = self._file(name, test, "log")
        pid = in_child(lambda: run_test(test, results), tree, self.work / "tiny", log)
        self.running[pid] = (name, test, time.monotonic())

    def wait(self) -> None:
        """Until at least one child ended, or is ended because its time is over."""
        while self.running:
            for pid, (name, test, start) in list(self.running.items()):
                late = time.monotonic() - start > SECONDS
                if late:
                    os.kill(pid, signal.SIGKILL)
                if os.waitpid(pid, 0 if late else os.WNOHANG)[0]:
                    del self.running[pid]
                    self.ended[name, test] = self._outcome(name, test, late)
                    return
            time.sleep(0.05)

    def outcome(self, name: str, test: str) -> Outcome:
        """How a started test ended."""
        while (name, test) not in self.ended:
            self.wait()
        return self.ended[name, test]

    def _outcome(self, name: str, test: str, late: bool) -> Outcome:
        results = self._file(name, test, "json")
        if results.is_file():
            return Outcome(*json.loads(results.read_text()))
        last = self._file(name, test, "log").read_text(errors="replace").strip().splitlines()
        return Outcome("no answer", f"none within {SECONDS} s" if late else (last or ["nothing was printed"])[-1])

    def _file(self, name: str, test: str, kind: str) -> Path:
        return self.work / f"{name}-{hashlib.sha256(test.encode()).hexdigest()[:12]}.{kind}"


def prove(names: Sequence[str], work: Path, jobs: int) -> Iterator[tuple[str, str]]:
    """(patch, "" or why it is not proven) of each; how its test fails is printed."""
    whole, pristine, memory = load_series(), read_pristine(find_source()), Memory()
    tests = {patch.name: patch.proven_by for patch in whole}
    assert "llava" not in sys.modules, "a child must import its own"
    warm_up()
    (work / "tiny").mkdir()
    bench, all_patches = Bench(work, jobs), write_tree(work / "all", whole, pristine, memory)
    bench.make_models(all_patches)
    waiting: list[str] = []
    for name in names:
        left = {name, *dependents(whole, [name])}
        tree = write_tree(work / name, [patch for patch in whole if patch.name not in left], pristine, memory)
        bench.start(name, tree, tests[name])
        bench.start("all", all_patches, tests[name])
        waiting.append(name)
        while waiting and {(waiting[0], tests[waiting[0]]), ("all", tests[waiting[0]])} <= bench.ended.keys():
            first = waiting.pop(0)
            yield first, _verdict(first, tests[first], bench)
    for name in waiting:
        yield name, _verdict(name, tests[name], bench)


def _verdict(name: str, test: str, bench: Bench) -> str:
    """Print what became of one patch; "" when it is proven."""
    present, absent = bench.outcome("all", test), bench.outcome(name, test)
    problem = ""
    if present.how != "passed":
        problem = f"with the whole series: {present.how}: {present.reason}"
    elif absent.how != "failed":
        problem = f"without it: {absent.how} {absent.reason}".strip()
    print(f"{name:<26} {'NOT PROVEN: ' + problem if problem else 'proven by ' + test}")
    if not problem:
        print(f"{'':<26}   without it: {absent.reason[:160]}")
    sys.stdout.flush()
    return problem


def main(argv: Sequence[str] | None = None) -> int:
    """Prove some patches, or all."""
    parser = argparse.ArgumentParser("python -m patches prove", description=__doc__)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--jobs", type=int, default=2, help="tests at once (default 2)")
    known = [patch.name for patch in load_series()]
    arguments = parser.parse_args(argv)
    names = arguments.names or known
    unknown = [name for name in names if name not in known]
    if unknown:
        parser.error(f"{unknown[0]}: no such patch; all are shown by: python -m patches list")
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="prove-") as folder:
        problems = [name for name, problem in prove(names, Path(folder), max(arguments.jobs, 1)) if problem]
    print(f"{len(names) - len(problems)} of {len(names)} patches proven alive in {time.monotonic() - start:.0f} s")
    if problems:
        print(f"not proven: {', '.join(problems)}")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
