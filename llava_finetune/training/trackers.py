"""Experiment trackers: Weights & Biases, TensorBoard, trackio. None by default, and never a login prompt.

A run is whole without them: `log.jsonl` and `report.html` hold everything. A tracker is for teams that keep their runs
elsewhere. When one fails while training goes on, the run says so once and leaves it out from then on.

    trackers = make_trackers(["wandb"], Path("runs/mine"), run_config)      # --report_to wandb
    for tracker in trackers:
        tracker.log(10, {"loss": 0.3})
        tracker.log_samples(10, predictions, Path("pictures"))
        tracker.finish()
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import json
import netrc
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from llava_finetune.errors import UsageError, UserError
from llava_finetune.evaluation import metrics

NAMES = ("wandb", "tensorboard", "trackio")
NUM_SAMPLES = 32
MAX_SIDE = 512
COLUMNS = ("picture", "question", "reference", "answer", "right")
WANDB_HOST = "api.wandb.ai"

Row = Mapping[str, Any]


class Tracker(Protocol):
    """What the trainer calls, on its first process only."""

    name: str

    def log(self, step: int, row: Row) -> None:
        """Keep the numbers of a row (of log.jsonl) under its step."""

    def log_samples(self, step: int, predictions: Sequence[Row], image_folder: Path | None) -> None:
        """Keep a table of the same sample questions at every evaluation: picture, question, reference, answer."""

    def finish(self) -> None:
        """Write what is left and let go."""


def make_trackers(names: Sequence[str] | str | None, run_dir: Path, run_config: Mapping[str, Any]) -> list[Tracker]:
    """Return the trackers called `names`, ready to log; none for `none` or nothing.

    `run_config` is what run.json holds. Raises UsageError for an unknown name and UserError where a package is missing.
    """
    made: list[Tracker] = []
    for name in _named(names):
        try:
            made.append(Guarded(MAKERS[name](run_dir, run_config)))
        except ImportError as error:
            for tracker in made:
                tracker.finish()
            raise UserError(
                f"--report_to {name}: {error}; install the trackers with: pip install -e '.[track]'"
            ) from error
    return made


class Wandb:
    """Weights & Biases: online when a key is configured or WANDB_MODE says so, else offline in the run folder."""

    name = "wandb"

    def __init__(self, run_dir: Path, config: Mapping[str, Any]) -> None:
        self.wandb = importlib.import_module("wandb")
        mode = os.environ.get("WANDB_MODE") or ("online" if _has_wandb_key() else "offline")
        self.run = self.wandb.init(
            project=os.environ.get("WANDB_PROJECT", "llava-finetune"),
            name=os.environ.get("WANDB_NAME", run_dir.resolve().name),
            dir=str(run_dir),
            config=json.loads(json.dumps(dict(config), default=str)),
            mode=mode,
            settings=self.wandb.Settings(console="off", silent=True),
        )
        self.run.define_metric("*", step_metric="step")
        if mode == "offline":
            print(
                f"wandb: no key, so the run is kept in {run_dir / 'wandb'}; upload it: wandb sync {run_dir / 'wandb'}/*"
            )

    def log(self, step: int, row: Row) -> None:
        """Log the numbers by their own step, so that a resumed run may go back."""
        self.run.log({"step": step, **_numbers(row)})

    def log_samples(self, step: int, predictions: Sequence[Row], image_folder: Path | None) -> None:
        """Log a wandb.Table."""
        table = self.wandb.Table(columns=list(COLUMNS))
        for one in _sample(predictions):
            picture = _picture(one, image_folder)
            table.add_data(self.wandb.Image(picture) if picture else None, *_texts(one))
        self.run.log({"step": step, "samples": table})

    def finish(self) -> None:
        """End the run."""
        self.run.finish()


class TensorBoard:
    """TensorBoard event files in RUN/tensorboard: scalars, sample pictures, and the samples as a text table."""

    name = "tensorboard"

    def __init__(self, run_dir: Path, config: Mapping[str, Any]) -> None:
        module = importlib.import_module("torch.utils.tensorboard")
        self.writer = module.SummaryWriter(log_dir=str(run_dir / "tensorboard"))
        self.writer.add_text("run.json", f"```\n{json.dumps(dict(config), indent=2, default=str)}\n```", 0)

    def log(self, step: int, row: Row) -> None:
        """Add one scalar per number."""
        for name, value in _numbers(row).items():
            self.writer.add_scalar(name, value, step)
        self.writer.flush()

    def log_samples(self, step: int, predictions: Sequence[Row], image_folder: Path | None) -> None:
        """Add the samples as a table in Markdown, and their pictures."""
        import numpy as np

        lines = ["| question | reference | answer | right |", "|---|---|---|---|"]
        for number, one in enumerate(_sample(predictions)):
            lines.append("| " + " | ".join(_one_cell(text) for text in _texts(one)) + " |")
            picture = _picture(one, image_folder)
            if picture:
                self.writer.add_image(f"samples/{number}", np.asarray(picture), step, dataformats="HWC")
        self.writer.add_text("samples", "\n".join(lines), step)
        self.writer.flush()

    def finish(self) -> None:
        """Close the event file."""
        self.writer.close()


class Trackio:
    """trackio: a local SQLite file (TRACKIO_DIR, by default in the user's cache), shown by `trackio show`."""

    name = "trackio"

    def __init__(self, run_dir: Path, config: Mapping[str, Any]) -> None:
        self.trackio = importlib.import_module("trackio")
        self.run = self.trackio.init(
            project=os.environ.get("TRACKIO_PROJECT", "llava-finetune"),
            name=run_dir.resolve().name,
            config=json.loads(json.dumps(dict(config), default=str)),
            embed=False,
        )

    def log(self, step: int, row: Row) -> None:
        """Log the numbers under the step."""
        self.trackio.log(_numbers(row), step=step)

    def log_samples(self, step: int, predictions: Sequence[Row], image_folder: Path | None) -> None:
        """Log a trackio.Table."""
        rows = []
        for one in _sample(predictions):
            picture = _picture(one, image_folder)
            image = self.trackio.Image(picture) if picture else None
            rows.append(dict(zip(COLUMNS, [image, *_texts(one)], strict=True)))
        pandas = importlib.import_module("pandas")
        self.trackio.log({"samples": self.trackio.Table(dataframe=pandas.DataFrame(rows))}, step=step)

    def finish(self) -> None:
        """End the run."""
        self.trackio.finish()


class Guarded:
    """A tracker whose failures cost its own rows and never the training: after the first one it is not tried again."""

    def __init__(self, tracker: Tracker) -> None:
        self.tracker: Tracker | None = tracker
        self.name = tracker.name

    def log(self, step: int, row: Row) -> None:
        """Pass the row on."""
        self._try(lambda tracker: tracker.log(step, row))

    def log_samples(self, step: int, predictions: Sequence[Row], image_folder: Path | None) -> None:
        """Pass the samples on."""
        self._try(lambda tracker: tracker.log_samples(step, predictions, image_folder))

    def finish(self) -> None:
        """Finish the tracker, once."""
        self._try(lambda tracker: tracker.finish())
        self.tracker = None

    def _try(self, action: Callable[[Tracker], None]) -> None:
        if self.tracker is None:
            return
        try:
            action(self.tracker)
        except Exception as error:  # whatever a tracker's backend raises
            print(f"{self.name}: stopped ({error}); training goes on, log.jsonl has every row", file=sys.stderr)
            self.tracker = None


MAKERS: dict[str, Callable[[Path, Mapping[str, Any]], Tracker]] = {
    "wandb": Wandb,
    "tensorboard": TensorBoard,
    "trackio": Trackio,
}


def _named(names: Sequence[str] | str | None) -> list[str]:
    given = (names if isinstance(names, str) else ",".join(names or [])).split(",")
    wanted = list(dict.fromkeys(name.strip() for name in given if name.strip() not in ("", "none")))
    unknown = [name for name in wanted if name not in NAMES]
    if unknown:
        raise UsageError(f"--report_to {unknown[0]}: no such tracker; known: none, {', '.join(NAMES)}")
    return wanted


def _numbers(row: Row) -> dict[str, float]:
    numbers = {}
    for name, value in row.items():
        if name == "step" or isinstance(value, bool) or not isinstance(value, (int, float)):
            continue
        group, _, rest = name.partition("_")
        numbers[f"{group}/{rest}" if group in ("eval", "probe", "hallucination") and rest else f"train/{name}"] = value
    return numbers


def _sample(predictions: Sequence[Row]) -> list[Row]:
    """The same questions at every evaluation, whatever their order."""

    def rank(one: Row) -> str:
        return hashlib.sha256(f"{one.get('id')}/{one.get('turn')}".encode("utf-8", "surrogatepass")).hexdigest()

    return sorted(predictions, key=rank)[:NUM_SAMPLES]


def _texts(one: Row) -> list[str]:
    return [one["question"], one["reference"], one["answer"], "yes" if metrics.is_right(one) else "no"]


def _picture(one: Row, folder: Path | None) -> Any:
    """The question's (first) picture, made small; None where there is none or it cannot be opened."""
    names = one.get("image")
    name = names if isinstance(names, str) else next(iter(names or []), None)
    if name is None or folder is None:
        return None
    from data_prep.records.record import DataError, open_image, resolve_image

    try:
        picture = open_image(resolve_image(folder, name))
    except DataError:  # evaluation has already said it
        return None
    picture.thumbnail((MAX_SIDE, MAX_SIDE))
    return picture


def _one_cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())


def _has_wandb_key() -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = os.environ.get("WANDB_BASE_URL", f"https://{WANDB_HOST}").split("//")[-1].split("/")[0]
    path = Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
    with contextlib.suppress(OSError, netrc.NetrcParseError):
        return netrc.netrc(str(path)).authenticators(host) is not None
    return False
