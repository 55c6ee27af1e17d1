"""A model's name as it was typed: a folder, a hub id, or a folder that is not there and must not be asked of the hub.

require_there("runs/quickstart/mergd")      # UserError: ... did you mean runs/quickstart/merged?
"""

from __future__ import annotations

import re
from pathlib import Path

from data_prep.records.near_folder import spelled_alike
from llava_finetune.errors import UserError

HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


def require_there(model: str | Path, what: str = "") -> None:
    """Raise UserError for a name that is no hub id and no folder; `what` is said before it, as "MODEL="."""
    name = str(model)
    path = Path(name)
    if path.is_dir() or not _is_place(name):
        return
    if path.exists():
        raise UserError(f"{what}{name}: a file; give the model's folder, or a hub id (OWNER/NAME)")
    near = spelled_alike(path)
    advice = f"did you mean {near}?" if near else "give a model's folder, or a hub id (OWNER/NAME)"
    if not near and HUB_ID.fullmatch(name) and name[:1] != ".":
        advice = f"for the hub's model of this name, start in a folder that has no {path.parent} in it"
    raise UserError(f"{what}{name}: no such folder; {advice}")


def _is_place(name: str) -> bool:
    """Say whether a name can only be a folder: it is no hub id, or begins with a folder that is here."""
    return not HUB_ID.fullmatch(name) or name[:1] == "." or ("/" in name and Path(name).parent.is_dir())
