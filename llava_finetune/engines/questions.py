"""The questions of a certificate: the first N of a records file, each with its pictures, asked alone.

questions = read_questions(Path("test.json"), Path("pictures"), 100)
"""

from __future__ import annotations

from pathlib import Path

from data_prep.records.record import open_image, resolve_image
from llava_finetune.engines.answers import Question, Turn
from llava_finetune.evaluation.generate_answers import held_out_questions


def read_questions(records: Path, images: Path | None, count: int) -> list[Question]:
    """The first `count` questions. Raises UserError when a picture is missing or a record cannot be asked."""
    found = held_out_questions(records, f"--records {records}", images, "--images", limit=count)
    out = []
    for each in found:
        pictures = tuple(open_image(resolve_image(images, name)) for name in each.images) if images else ()
        out.append(Question(f"{each.id}/{each.turn}", (Turn("user", each.text, pictures),)))
    return out
