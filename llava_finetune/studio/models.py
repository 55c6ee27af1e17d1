"""Models to begin with: folders of the workspace, those that --model allowed, and the known ones of the hub.

models(space)      # [{"name": "base", "where": "workspace"}, {"name": "liuhaotian/llava-v1.5-7b", "where": "hub"}]
"""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path

from llava_finetune.studio.buttons import known_folders
from llava_finetune.studio.workspace import OWN, Workspace


def models(space: Workspace) -> list[dict[str, str]]:
    """Names and where each is, this machine's own first."""
    space.require()
    folders = sorted(path for path in space.folder.iterdir() if _has_model(path))
    own = [path.name for path in folders if path.name not in OWN]
    return [
        *({"name": name, "where": "workspace"} for name in own),
        *({"name": name, "where": "machine"} for name in known_folders(space)),
        *({"name": name, "where": "hub"} for name in hub_models()),
    ]


def _has_model(path: Path) -> bool:
    try:
        return (path / "config.json").is_file()
    except OSError:  # a folder of somebody else's, such as lost+found
        return False


def hub_models() -> list[str]:
    """The models whose shapes `plan` knows without the hub."""
    text = resources.files("llava_finetune.planning").joinpath("known_models.json").read_text(encoding="utf-8")
    return [name for name in json.loads(text)["models"] if "llava" in name.lower()]
