"""The pictures of a folder.

pictures_below(Path("photos"))     # ["a.jpg", "holiday/b.HEIC"]
"""

from __future__ import annotations

import os
from pathlib import Path

from data_prep.errors import DataError, UsageError
from data_prep.records.foreign import ENDINGS


def pictures_below(folder: Path) -> list[str]:
    """Return the names of all pictures below `folder`, by their endings, sorted, hidden files left out.

    Raises UsageError for no such folder and DataError when it has no picture.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such folder")
    names = []
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        below = Path(place).relative_to(folder)
        names += [
            (below / name).as_posix()
            for name in files
            if not name.startswith(".") and Path(name).suffix.lower() in ENDINGS
        ]
    if not names:
        raise DataError(folder, f"no picture in it (looked for {', '.join(sorted(ENDINGS))})")
    return sorted(names)
