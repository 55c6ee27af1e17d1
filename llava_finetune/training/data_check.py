"""Look at every record and picture before training, once per state of the files; errors end the run before it begins.

`--check_data False` skips it. The result is kept under the hash of records and pictures, and in the run as check.json.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from llava_finetune.errors import UserError
from llava_finetune.machine import cache_folder
from llava_finetune.saved.manifest import write_json


@dataclass(frozen=True)
class Checked:
    """A records file that a run reads: the flag that named it, and the folder of its pictures."""

    flag: str
    path: str
    folder: str | None


def check_data(files: Sequence[Checked], output: Path, say: Callable[[str], None] = print) -> None:
    """Check every file that a run reads. Raises UserError with what is wrong and how to mend it."""
    from data_prep.check.report import report_text
    from data_prep.check.run import check_records

    held_out = next((one for one in files if one.flag == "--eval_data_path"), None)
    for one in files:
        flag, path = one.flag, one.path
        against = held_out if flag == "--data_path" else None
        report = check_records(
            path,
            one.folder,
            cache_dir=cache_folder("check"),
            test_path=against.path if against else None,
            test_image_folder=against.folder if against else None,
        )
        if not report.ok:
            raise UserError(
                f"{report_text(report)}\n{flag} {path} would fail or teach wrong things; mend it (python -m data_prep "
                "check --help), or train all the same with --check_data False"
            )
        if flag == "--data_path":
            write_json(output / "check.json", report.as_json())
        origin = "checked before" if report.from_cache else f"{report.seconds:.1f} s"
        say(f"check {path}: {report.num_records} records, {report.num_pictures} pictures ok ({origin})")
        warnings = [found for found in report.findings if found.kind.severity.value == "warning"]
        for found in warnings:
            print(f"WARNING: {path}: {found.count} x {found.kind.name}: {found.kind.why}", file=sys.stderr)
