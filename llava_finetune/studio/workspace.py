"""The workspace: one folder of plain files, in which everything lies that the page knows.

space = Workspace.open(Path("chess"))
space.below("photos/a.jpg")          # a path; UserError for one that leads out of the folder

chess/
  photos/              pictures, wherever they lie in it
  answers.csv          one row a question: id, image, question, answer
  dialogues.json       records with several turns or pictures, whole
  records.json         what `python -m data_prep table` makes of it, and check.json beside it
  data/train.json      its parts, by picture
  jobs/ID/             command.json, log, pid, exit
  runs/NAME/           what training writes
  studio.json          which folder holds the pictures, and what was chosen on the page
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep.errors import DataError
from data_prep.files import write_json
from data_prep.records.json_text import read_json
from llava_finetune.errors import UserError
from llava_finetune.studio.refusals import Refused

try:
    import fcntl
except ImportError:  # Windows has none: there one page at a time writes
    fcntl = None  # type: ignore[assignment]

SETTINGS = "studio.json"
OWN = (
    "answers.csv", "dialogues.json", "typed.json", "records.json",
    "mended.json", "check.json", "show.html", "jobs", "runs", "models", "data", SETTINGS,
)  # fmt: skip
"""Names in a workspace that the studio writes: no source of pictures or answers."""


class Gone(Refused):
    """The workspace itself cannot be reached."""


@dataclass(frozen=True)
class Workspace:
    """The folder, resolved, and where what lies in it."""

    folder: Path

    @classmethod
    def open(cls, folder: Path) -> Workspace:
        """Make the folder where there is none, and mark it. Raises UserError where it cannot be written."""
        try:
            folder.mkdir(parents=True, exist_ok=True)
            space = cls(folder.resolve())
            if not (space.folder / SETTINGS).exists():
                write_json(space.folder / SETTINGS, {})
            space.hidden.mkdir(exist_ok=True)
            space.jobs.mkdir(exist_ok=True)
        except (OSError, DataError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise UserError(f"{folder}: no workspace can be made here ({reason}); name a folder of yours") from None
        return space

    @property
    def answers(self) -> Path:
        """The table that the grid shows."""
        return self.folder / "answers.csv"

    @property
    def dialogues(self) -> Path:
        """Records that a row of the table cannot hold."""
        return self.folder / "dialogues.json"

    @property
    def records(self) -> Path:
        """What the table becomes."""
        return self.folder / "records.json"

    @property
    def jobs(self) -> Path:
        """One folder for each command that was started."""
        return self.folder / "jobs"

    @property
    def runs(self) -> Path:
        """One folder for each training."""
        return self.folder / "runs"

    @property
    def hidden(self) -> Path:
        """What can be made again: thumbnails, uploads under way, the lock."""
        return self.folder / ".studio"

    @property
    def images(self) -> Path | None:
        """The folder that the answers' pictures are named relative to; None before one was chosen."""
        name = self.settings().get("images")
        return self.below(name) if isinstance(name, str) else None

    def require(self) -> None:
        """Raise Gone when the folder is away: a new one in its place would hide the old one when that comes back."""
        if not (self.folder / SETTINGS).is_file():
            raise Gone("gone", folder=str(self.folder))

    def below(self, name: str) -> Path:
        """The path of `name` in the workspace. Raises UserError for one outside of it, links followed."""
        if "\0" in name or len(name) > 4096:
            raise Refused("no_name")
        try:
            path = (self.folder / name).resolve()
        except (OSError, RuntimeError, UnicodeEncodeError):  # links in a circle, half of a character
            raise Refused("no_name") from None
        if path != self.folder and self.folder not in path.parents:
            raise Refused("leads_out", name=name, folder=str(self.folder))
        return path

    def name_of(self, path: Path) -> str:
        """How a path is named in commands and on the page: relative to the workspace."""
        return path.relative_to(self.folder).as_posix() or "."

    def settings(self) -> dict[str, Any]:
        """What was chosen on the page. Raises Gone without the folder, UserError for a damaged file."""
        self.require()
        path = self.folder / SETTINGS
        try:
            value = read_json(path)
        except (OSError, DataError) as error:
            raise UserError(f"{path}: not readable ({error}); mend it, or write {{}} into it") from None
        return value if isinstance(value, dict) else {}

    def keep(self, **chosen: Any) -> None:
        """Write choices into studio.json; None takes one back."""
        with self.locked():
            kept = {**self.settings(), **chosen}
            write_json(self.folder / SETTINGS, {name: value for name, value in kept.items() if value is not None})

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the workspace's lock: two servers on one folder write one after the other."""
        self.require()
        self.hidden.mkdir(exist_ok=True)
        with (self.hidden / "lock").open("a") as file:
            if fcntl is not None:
                fcntl.flock(file, fcntl.LOCK_EX)
            yield
