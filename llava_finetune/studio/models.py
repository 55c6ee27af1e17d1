"""Models to begin with: folders of the workspace, those that --model allowed, and the known ones of the hub.

models(space)      # [{"name": "base", "where": "workspace"}, {"name": "liuhaotian/llava-v1.5-7b", "where": "hub"}]

One that was made of a training (models/NAME-merged) comes behind them; other layouts are not begun with.
"""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path

from llava_finetune.studio.buttons import known_folders
from llava_finetune.studio.results import SUFFIX
from llava_finetune.studio.workspace import OWN, Workspace


def models(space: Workspace) -> list[dict[str, str]]:
    """Names and where each is, this machine's own first."""
    space.require()
    own = [path for path in space.folder.iterdir() if path.name not in OWN]
    made = (space.folder / "models").glob(f"*-{SUFFIX['merge']}")
    ours, merged = (
        [{"name": space.name_of(path), "where": "workspace"} for path in sorted(paths) if _has_model(path)]
        for paths in (own, made)
    )
    return [
        *ours,
        *({"name": name, "where": "machine"} for name in known_folders(space)),
        *merged,
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
