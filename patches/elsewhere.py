"""Where a file or function that a patch looks for went: another file of the tree that has its name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PurePosixPath

from patches.edits import Edit

#: Names that half of upstream's files have: they say nothing about where a function went.
COMMON = frozenset(["main", "train", "forward", "__init__", "eval_model", ""])


def moved_to(edit: Edit, files: Mapping[str, bytes]) -> str:
    """`; ... is in llava/mm_utils.py, line 185` for each other place that may be the one, or ""."""
    places = [
        f"{name} has the file's name"
        for name in files
        if edit.file not in files and PurePosixPath(name).name == PurePosixPath(edit.file).name
    ]
    defined = edit.within.split(".")[0]
    if not places and defined not in COMMON and not defined.startswith("__"):
        definition = re.compile(rb"^[ \t]*(?:class|def) " + defined.encode() + rb"\b", re.MULTILINE)
        for name, content in files.items():
            match = definition.search(content) if name != edit.file else None
            if match:
                line = content.count(b"\n", 0, match.start()) + 1
                places.append(f"`{defined}` is in {name}, line {line}")
    return f"; {'; '.join(places[:2])}" if places else ""
