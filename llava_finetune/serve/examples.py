"""Examples for the page: questions of the evaluation set with their pictures, copied into the server's own folder.

Why copied: the page serves files of its own folder only, so no path of the data set is ever readable through it.

    load_examples(Path("runs/mine"), None, None, scratch)
"""

from __future__ import annotations

from pathlib import Path

from data_prep.records.marks import IMAGE_TOKEN
from data_prep.records.usable import taught
from llava_finetune.errors import UserError


def load_examples(
    model: Path, records: Path | None, images: Path | None, scratch: Path, count: int = 6
) -> list[tuple[str, list[str]]]:
    """(question, picture files) of different pictures; empty when no evaluation file is known or a picture is gone."""
    from data_prep.records.record import DataError, images_of, open_image, read_records, resolve_image
    from llava_finetune.merge.weights import run_records

    found = (records, images) if records else run_records(model)
    if found is None or found[0] is None:
        return []
    scratch.mkdir(parents=True, exist_ok=True)
    out: list[tuple[str, list[str]]] = []
    seen: set[str] = set()
    try:
        for record in read_records(found[0]):
            names, turns = images_of(record), taught(record)["conversations"]
            if not names or not turns or names[0] in seen or found[1] is None:
                continue
            seen.add(names[0])
            files: list[str] = []
            for name in names:
                file = scratch / f"{len(out)}-{len(files)}.png"
                open_image(resolve_image(found[1], name)).save(file)
                files.append(str(file))
            question = turns[0]["value"].replace(IMAGE_TOKEN, "").strip()
            out.append((question, files))
            if len(out) == count:
                break
    except DataError as error:
        raise UserError(f"examples for the page: {error}; leave --records out, or correct it") from error
    return out
