"""The series on many commits or forks of upstream, read from a git directory; nothing is written.

python -m patches survey LLaVA.git                 every commit that changes a Python file, the newest 50
python -m patches survey LLaVA.git v1.2.0 main     these
"""

from __future__ import annotations

import argparse
import json
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import libcst as cst

from patches.engine import Memory, PatchResult, Status, judge
from patches.history import Commit, History, SurveyError
from patches.proofs import broken, promised
from patches.series import Patch, load_series
from patches.source import read_sums

LIMIT = 50


class Verdict(str, Enum):
    """What a commit means for one patch."""

    APPLIES = "applies"
    DRIFTED = "drifted"
    THERE = "already there"
    UNNEEDED = "not needed"


@dataclass(frozen=True)
class Finding:
    """One patch on one commit; `reasons` is empty only when it applies."""

    patch: str
    verdict: Verdict
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class Judged:
    """One commit: a finding per patch, the files that no patch knows, and the seconds it took.

    `problem`: why there are no findings.
    """

    commit: Commit
    findings: tuple[Finding, ...]
    new_files: tuple[str, ...]
    seconds: float
    problem: str = ""

    def count(self, verdict: Verdict) -> int:
        """How many patches got it."""
        return sum(finding.verdict is verdict for finding in self.findings)


def survey(history: History, commits: Sequence[Commit]) -> Iterator[Judged]:
    """Judge each commit; commits with the same files are judged once. Raises SurveyError."""
    series, memory = load_series(), Memory()
    known = set(read_sums())
    seen: dict[tuple[tuple[str, str], ...], tuple[Finding, ...]] = {}
    for commit in commits:
        start = time.monotonic()
        blobs = history.blobs(commit)
        if not blobs:
            yield Judged(commit, (), (), time.monotonic() - start, "no package llava/ in it")
            continue
        key = tuple(sorted(blobs.items()))
        if key not in seen:
            seen[key] = findings(series, {name: history.read(blob) for name, blob in blobs.items()}, memory)
        yield Judged(commit, seen[key], tuple(sorted(set(blobs) - known)), time.monotonic() - start)


def findings(series: Sequence[Patch], files: Mapping[str, bytes], memory: Memory) -> tuple[Finding, ...]:
    """One finding per patch for the files of one commit."""
    trees: dict[str, cst.Module] = {}
    return tuple(_finding(result, files, trees) for result in judge(series, files, trees, memory))


def _finding(result: PatchResult, files: Mapping[str, bytes], trees: Mapping[str, cst.Module]) -> Finding:
    patch = result.patch
    if result.status is Status.APPLIES:
        left = tuple(broken(promised(patch), trees, files))
        return Finding(patch.name, Verdict.DRIFTED if left else Verdict.APPLIES, left)
    if result.status is Status.REDUNDANT:
        return Finding(patch.name, Verdict.THERE, result.messages)
    nowhere = not any(name in files for name in patch.files) and not any("; " in line for line in result.messages)
    if result.status is Status.UNNEEDED or nowhere:
        return Finding(patch.name, Verdict.UNNEEDED, result.messages)
    return Finding(patch.name, Verdict.DRIFTED, result.messages)


def add_survey(command: argparse.ArgumentParser) -> None:
    """The flags of `python -m patches survey`."""
    command.add_argument("repository", type=Path, metavar="REPO", help="a git directory, bare or with a work tree")
    command.add_argument(
        "revisions",
        nargs="*",
        metavar="REV",
        help="commits, branches, tags or ranges (default: all commits on all branches that change a Python file)",
    )
    command.add_argument("--limit", type=int, default=LIMIT, help=f"the newest so many (default {LIMIT}; 0: all)")
    shape = command.add_mutually_exclusive_group()
    shape.add_argument("--json", action="store_true", help="one JSON object a line, one line a commit")
    shape.add_argument("--markdown", action="store_true", help="the table of docs/upgrading.md, for one commit")


def survey_command(arguments: argparse.Namespace) -> int:
    """Judge and print. 0: every commit was judged; 1: one could not be. Raises SurveyError."""
    if arguments.limit < 0:
        raise SurveyError(f"--limit {arguments.limit}: expected 0 (all) or more")
    judged: list[Judged] = []
    as_text = not (arguments.json or arguments.markdown)
    with History(arguments.repository) as history:
        commits, total = history.commits(tuple(arguments.revisions), arguments.limit or 10**9)
        if not commits:
            raise SurveyError(f"{arguments.repository}: no such commit changes a Python file; name some")
        if arguments.markdown and len(commits) != 1:
            raise SurveyError(f"--markdown: expected one commit, found {len(commits)}; name the one")
        if as_text and len(commits) < total:
            print(f"{len(commits)} of {total} commits, newest first; all: --limit 0")
        if as_text:
            print("commit        day         applies  drifted  already there  not needed  seconds")
        for each in survey(history, commits):
            judged.append(each)
            if not arguments.markdown:
                print(_as_json(each) if arguments.json else _row(each), flush=True)
    if not arguments.json:
        print(markdown_survey(judged[0]) if arguments.markdown else "\n".join(_reasons(judged)))
    return 1 if any(each.problem for each in judged) else 0


def markdown_survey(judged: Judged) -> str:
    """One commit's findings as a table, those that apply as a number."""
    if judged.problem:
        raise SurveyError(f"{judged.commit.name[:12]}: {judged.problem}")
    name = judged.commit.name[:12]
    counts = ", ".join(f"{judged.count(verdict)} {verdict.value}" for verdict in Verdict)
    lines = [f"<!-- generated by: python -m patches survey REPO {name} --markdown -->", ""]
    lines += [f"{len(judged.findings)} patches on {name} ({judged.commit.day}): {counts}.", ""]
    lines += ["| Patch | Verdict | What is met |", "|---|---|---|"]
    for finding in judged.findings:
        if finding.verdict is not Verdict.APPLIES:
            met = "<br>".join(_in_one_line(reason) for reason in finding.reasons).replace("|", "\\|")
            lines.append(f"| `{finding.patch}` | {finding.verdict.value} | {met} |")
    return "\n".join([*lines, "", "<!-- end -->"])


def _in_one_line(reason: str) -> str:
    """A reason without the lines that show a difference; the command shows them."""
    return reason.splitlines()[0].removesuffix("; nearest, with every difference:")


def _row(judged: Judged) -> str:
    head = f"{judged.commit.name[:12]}  {judged.commit.day}"
    if judged.problem:
        return f"{head}  not judged: {judged.problem}"
    counts = [judged.count(verdict) for verdict in Verdict]
    numbers = "".join(f"{count:>{width}}" for count, width in zip(counts, (9, 9, 15, 12), strict=True))
    return f"{head}{numbers}{judged.seconds:>9.2f}"


def _as_json(judged: Judged) -> str:
    patches = {each.patch: {"verdict": each.verdict.value, "reasons": each.reasons} for each in judged.findings}
    return json.dumps(
        {
            "commit": judged.commit.name,
            "day": judged.commit.day,
            "problem": judged.problem,
            "seconds": round(judged.seconds, 2),
            "files_no_patch_knows": judged.new_files,
            "patches": patches,
        }
    )


def _reasons(judged: Sequence[Judged]) -> Iterator[str]:
    """Every finding but `applies`, once for all commits that share its reasons (line numbers may differ)."""
    groups: dict[tuple[str, Verdict, str], list[tuple[Commit, Finding]]] = {}
    for each in judged:
        for finding in each.findings:
            if finding.verdict is not Verdict.APPLIES:
                key = (finding.patch, finding.verdict, re.sub(r"\d+", "", "".join(finding.reasons)))
                groups.setdefault(key, []).append((each.commit, finding))
    order = {patch: number for number, patch in enumerate(dict.fromkeys(key[0] for key in groups))}
    for (patch, verdict, _), found in sorted(groups.items(), key=lambda item: order[item[0][0]]):
        first, last = found[0][0], found[-1][0]
        span = first.name[:12] if len(found) == 1 else f"{len(found)} commits, {first.name[:12]} to {last.name[:12]}"
        yield f"\n{patch}: {verdict.value} ({span})"
        yield from (f"    {reason}" for reason in found[0][1].reasons)
    new = sorted({name for each in judged for name in each.new_files})
    if new:
        yield f"\n{len(new)} Python files that no patch was written for are not judged: {', '.join(new[:8])}" + (
            f" and {len(new) - 8} more" if len(new) > 8 else ""
        )
