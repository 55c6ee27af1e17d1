"""The report of a run: one self-contained page, the same numbers as JSON, and the curves as PNG.

llava-finetune report runs/quickstart                 rewrite runs/quickstart/report.html
llava-finetune report runs/lora-64 runs/lora-128      compare runs: runs/comparison/report.html
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

__all__ = ["main", "write_report"]


def write_report(run_dir: Path | str, image_folder: Path | None = None, *, curves: bool = True) -> Path:
    """Write report.html, report.json and PNG curves into a run folder from whatever it holds; return the page's path.

    Pictures come from `image_folder`, else from the folder that the scores or run.json name. May be called at any
    moment of a run; `curves=False` leaves out the PNG pictures, which cost a second. A part without numbers is left out
    and named on the page; only a missing folder raises (FileNotFoundError).
    """
    from llava_finetune.report.writing import write_run_report

    return write_run_report(Path(run_dir), image_folder, curves=curves)


def main(argv: Sequence[str] | None = None) -> int:
    """Run `llava-finetune report`; return the exit code."""
    from llava_finetune.report.command import main as run

    return int(run(argv))
