"""A model's name as it was typed: a folder, a hub id, or a folder that is not there and must not be asked of the hub.

require_there("runs/quickstart/mergd")      # UserError: ... did you mean runs/quickstart/merged?
"""

from __future__ import annotations

import re
from pathlib import Path

from data_prep.records.near_folder import meant
from llava_finetune.errors import UserError

HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


def require_there(model: str | Path, what: str = "") -> None:
    """Raise UserError for a name that is no hub id and no folder; `what` is said before it, as "MODEL=".

    What looks like a hub id and begins with a folder that is here can only be a folder.
    """
    name = str(model)
    path = Path(name)
    is_hub_id = bool(HUB_ID.fullmatch(name)) and name[:1] != "."
    if path.is_dir() or (is_hub_id and ("/" not in name or not path.parent.is_dir())):
        return
    if path.exists():
        raise UserError(f"{what}{name}: a file; give the model's folder, or a hub id (OWNER/NAME)")
    otherwise = (
        f"for the hub's model of this name, start in a folder that has no {path.parent} in it"
        if is_hub_id
        else "give a model's folder, or a hub id (OWNER/NAME)"
    )
    raise UserError(f"{what}{name}: no such folder; {meant(path, otherwise)}")
