"""Look at every record and picture before training, once per state of the files; errors end the run before it begins.

`--check_data False` skips it. The result is kept under the hash of records and pictures, and in the run as check.json.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from llava_finetune.config.arguments import DataArguments
from llava_finetune.data.replay import split_spec
from llava_finetune.errors import UserError
from llava_finetune.machine import cache_folder
from llava_finetune.saved.manifest import write_json


def check_data(data: DataArguments, output: Path, say: Callable[[str], None] = print) -> None:
    """Check training, held-out, probe and replay records. Raises UserError with what is wrong and how to mend it."""
    from data_prep.check.report import report_text
    from data_prep.check.run import check_records

    files: list[tuple[str, str | None, str | None]] = [
        ("--data_path", data.data_path, data.image_folder),
        ("--eval_data_path", data.eval_data_path, data.eval_image_folder or data.image_folder),
        ("--probe_data_path", data.probe_data_path, data.probe_image_folder or data.image_folder),
        (
            "--replay",
            str(split_spec(data.replay)[0]) if data.replay else None,
            data.replay_image_folder or data.image_folder,
        ),
    ]
    for flag, path, folder in files:
        if path is None:
            continue
        held_out = data.eval_data_path if flag == "--data_path" else None
        report = check_records(
            path,
            folder,
            cache_dir=cache_folder("check"),
            test_path=held_out,
            test_image_folder=data.eval_image_folder if held_out else None,
        )
        if flag == "--data_path":
            write_json(output / "check.json", report.as_json())
        if not report.ok:
            raise UserError(
                f"{report_text(report)}\n{flag} {path} would fail or teach wrong things; mend it (python -m data_prep "
                "check --help), or train all the same with --check_data False"
            )
        origin = "checked before" if report.from_cache else f"{report.seconds:.1f} s"
        say(f"check {path}: {report.num_records} records, {report.num_pictures} pictures ok ({origin})")
        warnings = [found for found in report.findings if found.kind.severity.value == "warning"]
        for found in warnings:
            print(f"WARNING: {path}: {found.count} x {found.kind.name}: {found.kind.why}", file=sys.stderr)
