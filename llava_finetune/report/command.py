"""The command `llava-finetune report`: the report of a run, or several runs on one page.

llava-finetune report runs/quickstart
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from data_prep.picture_folder import add_images_option
from llava_finetune.errors import UsageError, UserError
from llava_finetune.flags import command_parser

EXAMPLES = """examples:
  llava-finetune report runs/quickstart                 rewrite report.html, report.json and the PNG curves of a run
  llava-finetune report runs/lora-64 runs/lora-128      compare runs: runs/comparison/report.html
  llava-finetune report runs/quickstart --json          print report.json too

exit codes: 0 done, 1 failed, 2 wrong use"""


def parser() -> argparse.ArgumentParser:
    """Return the command line of `llava-finetune report`."""
    out = command_parser("report", "Write the report of a run, or compare several runs on one page.", EXAMPLES)
    out.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run folder: runs/NAME")
    add_images_option(out, "pictures of the questions; default: what the run names")
    out.add_argument("--output", type=Path, help="folder of a comparison; default: comparison beside the first run")
    out.add_argument("--json", action="store_true", help="print the report as JSON")
    return out


def main(argv: Sequence[str] | None = None) -> int:
    """Write the report and say where it is. Exit codes: 0 done, 1 failed, 2 wrong use."""
    arguments = parser().parse_args(list(sys.argv[1:] if argv is None else argv))
    for run in arguments.runs:
        if not run.is_dir():
            raise UserError(f"{run}: no such run folder; give the folder that training wrote, such as runs/quickstart")
        if not any((run / name).exists() for name in ("run.json", "log.jsonl")) and not list(run.glob("scores-*.json")):
            raise UserError(f"{run}: neither run.json, log.jsonl nor scores-*.json in it; is it a run folder?")
    if len({run.resolve() for run in arguments.runs}) < len(arguments.runs):
        raise UsageError("a run is given twice; give different runs to compare")
    if len(arguments.runs) > 1:
        page = _compare(arguments)
    else:
        from llava_finetune.report.writing import write_run_report

        page = write_run_report(arguments.runs[0], arguments.image_folder)
    _say(page, arguments.json)
    return 0


def _compare(arguments: argparse.Namespace) -> Path:
    from data_prep.files import write_json, write_text
    from llava_finetune.report.compare import comparison, comparison_page
    from llava_finetune.report.run_folder import read_run
    from llava_finetune.report.writing import finite

    runs = [read_run(run) for run in arguments.runs]
    folder: Path = arguments.output or arguments.runs[0].resolve().parent / "comparison"
    write_json(folder / "report.json", finite(comparison(runs)))
    write_text(folder / "report.html", comparison_page(runs))
    return folder / "report.html"


def _say(page: Path, as_json: bool) -> None:
    report = json.loads((page.parent / "report.json").read_text(encoding="utf-8"))
    if as_json:
        print(json.dumps(report, indent=2, ensure_ascii=False))
        return
    print(report.get("headline") or report.get("verdict"))
    for line in report.get("summary", []):
        print(f"- {line}")
    for line in report.get("problems", []):
        print(f"WARNING: {page.parent}: {line}", file=sys.stderr)
    print(f"written: {page}")
