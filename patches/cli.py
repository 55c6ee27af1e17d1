"""The command line: python -m patches fetch | list | check | survey | prove | apply | diff | revert.

Exit code 0: done. 1: something was found or failed. 2: wrong use.
"""

from __future__ import annotations

import argparse
import difflib
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from patches import UPSTREAM_COMMIT, UPSTREAM_VERSION
from patches.engine import Report, Status, run
from patches.fetch import FetchError, fetch
from patches.history import SurveyError
from patches.series import Kind, Patch, SeriesError, load_series, series_hash
from patches.source import ROOT, SourceError, find_source, read_any, read_pristine
from patches.stamp import OUTPUT, STAMP, make_stamp
from patches.survey import add_survey, survey_command
from patches.table import markdown_table, text_table
from patches.tree import TreeError, locked, read_tree, remove_tree, write_tree

EXAMPLES = """examples:
  python -m patches fetch                       get pristine upstream (84 kB sdist; --git for the submodule)
  python -m patches apply                       write build/patched/llava
  python -m patches check                       a dry run of apply
  python -m patches check --source DIR --any-version     rehearse the series on another upstream
  python -m patches survey REPO                 rehearse it on every commit of a git directory
  python -m patches apply --without serve_errors         all patches but one
  python -m patches prove serve_errors          show that a test fails without the patch (no name: every patch)
  python -m patches diff builder.py             what the series does to one file
  python -m patches list --markdown             the table of patches/README.md
"""


class Refused(Exception):
    """The series does not fit; the message has one line per reason."""


def parser() -> argparse.ArgumentParser:
    """All commands and their flags."""
    shape = argparse.RawDescriptionHelpFormatter
    top = argparse.ArgumentParser("python -m patches", description=__doc__, epilog=EXAMPLES, formatter_class=shape)
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, text: str) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=text, description=text, epilog=EXAMPLES, formatter_class=shape)

    get = add("fetch", "get pristine upstream and check its 50 sums")
    get.add_argument(
        "--git", action="store_true", help="fill the submodule third_party/LLaVA instead of using the sdist"
    )
    get.add_argument("--force", action="store_true", help="fetch again although it is there")
    table = add("list", "the patches, their edits and changed lines")
    table.add_argument("--markdown", action="store_true", help="print the table of patches/README.md")
    check = add("check", "dry run: report every patch, write nothing")
    check.add_argument("--any-version", action="store_true", help="do not check sums; rehearse on another upstream")
    check.add_argument("--json", action="store_true", help="one JSON object")
    write = add("apply", "write the patched tree")
    diff = add("diff", "print the patched tree against pristine")
    diff.add_argument("files", nargs="*", help="only files whose path ends so")
    back = add("revert", "remove the patched tree")
    add_survey(add("survey", "judge the series on many commits of a git directory"))
    proof = add("prove", "run each patch's named test without the patch: it must fail, and pass with it")
    proof.add_argument("names", nargs="*", metavar="NAME", help="only these patches")
    proof.add_argument("--jobs", type=int, default=2, help="tests at once (default 2)")
    for command in (table, check, write, diff):
        command.add_argument(
            "--source", type=Path, help="a LLaVA checkout or unpacked sdist (default: see patches/source.py)"
        )
    for command in (check, write, diff):
        _add_choice(command)
    for command in (write, back):
        command.add_argument(
            "--output", type=Path, default=ROOT / OUTPUT, help="the folder that gets llava/ (default build/patched)"
        )
    return top


def _add_choice(command: argparse.ArgumentParser) -> None:
    """Add --only and --without: which patches of the series."""
    command.add_argument(
        "--only",
        action="append",
        default=[],
        choices=[kind.value for kind in Kind],
        help="only patches of this kind; may be repeated",
    )
    command.add_argument(
        "--without",
        action="append",
        default=[],
        metavar="NAME",
        help="leave this patch out; may be repeated; refused while another patch needs it",
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; errors become one message on stderr and exit code 1."""
    arguments = parser().parse_args(argv)
    commands: dict[str, Callable[[argparse.Namespace], int]] = {
        "fetch": _fetch,
        "list": _list,
        "check": _check,
        "apply": _apply,
        "diff": _diff,
        "revert": _revert,
        "survey": survey_command,
        "prove": _prove,
    }
    try:
        return commands[arguments.command](arguments)
    except (SourceError, SeriesError, FetchError, TreeError, SurveyError, Refused) as error:
        print(f"python -m patches {arguments.command}: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        return 1


def _series(arguments: argparse.Namespace) -> list[Patch]:
    return load_series([Kind(name) for name in arguments.only], arguments.without)


def _chosen(arguments: argparse.Namespace) -> str:
    """What the stamp says of the choice: `all`, `stack`, `all without serve_errors`."""
    kinds = ", ".join(arguments.only) or "all"
    return kinds + (f" without {', '.join(arguments.without)}" if arguments.without else "")


def _fetch(arguments: argparse.Namespace) -> int:
    print(fetch(ROOT, arguments.git, arguments.force))
    return 0


def _list(arguments: argparse.Namespace) -> int:
    report = run(load_series(), read_pristine(find_source(arguments.source)), count_lines=True)
    print(markdown_table(report) if arguments.markdown else text_table(report))
    return 0


def _report(arguments: argparse.Namespace) -> tuple[dict[str, bytes], Report]:
    """Pristine files and the series' outcome. Raises Refused with every reason at once."""
    pristine = read_pristine(find_source(arguments.source))
    report = run(_series(arguments), pristine)
    if report.failed:
        raise Refused(
            "nothing was written; the series does not fit:\n  "
            + "\n  ".join(report.failed)
            + "\nUpstream or the series changed: docs/upgrading.md says how to mend a patch"
        )
    return pristine, report


def _check(arguments: argparse.Namespace) -> int:
    folder = find_source(arguments.source)
    pristine = read_any(folder) if arguments.any_version else read_pristine_or_say(folder)
    report = run(_series(arguments), pristine)
    if arguments.json:
        rows = [{"name": r.patch.name, "status": r.status.value, "messages": list(r.messages)} for r in report.results]
        print(json.dumps({"source": str(folder), "patches": rows, "broken": report.broken}, indent=1))
    else:
        _print_check(report, len(pristine))
    return 1 if report.failed else 0


def read_pristine_or_say(folder: Path) -> dict[str, bytes]:
    """Pristine files; when they are not, what the series meets there is part of the message. Raises SourceError."""
    try:
        return read_pristine(folder)
    except SourceError as error:
        failed = run(load_series(), read_any(folder)).failed
        met = (
            "\nThe series on these files:\n  " + "\n  ".join(failed)
            if failed
            else "\nThe series still fits these files."
        )
        raise SourceError(str(error) + met) from None


def _print_check(report: Report, num_files: int) -> None:
    width = max((len(result.patch.name) for result in report.results), default=0)
    for result in report.results:
        print(f"{result.patch.name:<{width}}  {result.status.value}")
        for message in result.messages:
            print(f"    {message}")
    for line in report.broken:
        print(f"broken proof: {line}")
    counts = ", ".join(f"{sum(r.status is status for r in report.results)} {status.value}" for status in Status)
    print(f"{len(report.results)} patches on {num_files} files: {counts}")


def _apply(arguments: argparse.Namespace) -> int:
    start = time.monotonic()
    _, report = _report(arguments)
    files = dict(report.files)
    files[STAMP] = make_stamp(report.files, series_hash(), _chosen(arguments))
    with locked(arguments.output):
        written = write_tree(arguments.output, files)
    print(
        f"{arguments.output}/llava: {'written' if written else 'already current'}: {len(report.results)} patches, "
        f"{sum(len(result.patch.edits) for result in report.results)} edits, {len(report.changed_by)} of "
        f"{len(report.files)} files changed; upstream {UPSTREAM_VERSION} ({UPSTREAM_COMMIT[:12]}), "
        f"series {series_hash()[:12]}; {time.monotonic() - start:.1f} s"
    )
    return 0


def _prove(arguments: argparse.Namespace) -> int:
    """The proofs run in a process of their own: they import the whole stack, which this package never does."""
    command = [sys.executable, "-m", "tests.patches.prove", *arguments.names, "--jobs", str(arguments.jobs)]
    return subprocess.run(command, cwd=ROOT, check=False).returncode


def _diff(arguments: argparse.Namespace) -> int:
    pristine, report = _report(arguments)
    for name in sorted(report.changed_by):
        if arguments.files and not any(name.endswith(end) for end in arguments.files):
            continue
        before, after = (text[name].decode("utf-8").splitlines(keepends=True) for text in (pristine, report.files))
        sys.stdout.writelines(difflib.unified_diff(before, after, f"upstream/{name}", f"patched/{name}"))
    return 0


def _revert(arguments: argparse.Namespace) -> int:
    if not arguments.output.is_dir():
        print(f"{arguments.output}: nothing there")
        return 0
    with locked(arguments.output):
        num_files = len(read_tree(arguments.output))
        removed = remove_tree(arguments.output)
    print(f"{arguments.output}/llava: {f'removed ({num_files} files)' if removed else 'nothing there'}")
    return 0
