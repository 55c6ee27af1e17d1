"""Read whatever a run folder holds so far; nothing in it is required, and the report lists what is missing.

A report is written while the run goes on, after a crash, and from a folder that someone copied half of. So every file
is optional, a line that is just being written is left for the next time, and `problems` lists what could not be read.

    run = read_run(Path("runs/quickstart")); run.evaluations["final"].scores["exact_match"]
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from data_prep.errors import DataError
from data_prep.records.json_text import parse_json, require_regular
from llava_finetune.errors import UserError
from llava_finetune.evaluation import metrics
from llava_finetune.evaluation.scoring import is_prediction
from llava_finetune.saved.documents import read_document

CONTROLS = ("text_prior", "blind", "shuffled")
LABELS = {
    "baseline": ("Before training", "the base model, same code"),
    "text_prior": ("Text-only prior", "commonest training answer to the question"),
    "blind": ("Blind", "the trained model, pictures withheld"),
    "shuffled": ("Shuffled", "the trained model, pictures exchanged"),
    "final": ("After training", "on pictures it has not seen"),
}
PROBE = "probe"
GAUGE = "hallucination"
BESIDE = re.compile(rf"({PROBE}|{GAUGE})-?")
"""How the name of an evaluation begins that stands beside the main ones."""
LARGEST = 1e100
"""The largest number that is drawn or compared: sums and squares of larger ones end."""
# What training with --eval_data_path calls the evaluation before its first step.
FIRST = "eval-0"
CERTIFICATE = "certificate.json"
NUMBER_IN_NAME = re.compile(r"(\d+)$")
IMAGE_FOLDER_KEYS = ("eval_image_folder", "image_folder", "images")


@dataclass(frozen=True)
class Evaluation:
    """One evaluation of a run: its name, its Scores dict, and its predictions where they were kept."""

    name: str
    scores: Mapping[str, Any]
    predictions: list[dict[str, Any]] = field(default_factory=list)

    @property
    def label(self) -> str:
        """The name as a reader sees it: `After training`, `Step 60`."""
        if self.name in LABELS:
            return LABELS[self.name][0]
        name = BESIDE.sub("", self.name, count=1) or "final"
        if name in LABELS:
            return LABELS[name][0]
        number = NUMBER_IN_NAME.search(name)
        return f"Step {int(number.group(1)):,}" if number else name.replace("_", " ").replace("-", " ").capitalize()

    @property
    def hint(self) -> str:
        """What the evaluation is, in a few words."""
        return LABELS.get(self.name, ("", ""))[1]


@dataclass(frozen=True)
class Run:
    """All that a run folder holds."""

    folder: Path
    manifest: dict[str, Any]
    rows: list[dict[str, Any]]
    evaluations: dict[str, Evaluation]
    probes: list[Evaluation]
    gauges: list[Evaluation]
    check: dict[str, Any]
    problems: list[str]
    # Stages that came before this one in the same run: projector pretraining before fine-tuning.
    earlier: list[Run] = field(default_factory=list)
    stage: str = ""
    certificate: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.folder.resolve().name

    @property
    def last_step(self) -> int:
        """The last step logged, 0 before the first."""
        return max((int(row["step"]) for row in self.rows if is_number(row.get("step"))), default=0)

    @property
    def is_finished(self) -> bool:
        """Whether training has written its result, or the evaluation after it is there."""
        return "final" in self.evaluations or (self.folder / self.stage / "result.json").is_file()

    def points(self, key: str) -> list[tuple[float, float]]:
        """Return (step, value) of every row that logs a finite number under `key`, by step."""
        found = {float(row["step"]): float(row[key]) for row in self.rows if is_number(row.get(key))}
        return sorted(found.items())

    def argument(self, *names: str) -> Any:
        """Return the first of these found in the manifest or in its arguments, else None."""
        arguments = self.manifest.get("arguments")
        sources = [self.manifest, arguments if isinstance(arguments, dict) else {}]
        sources += [group for group in sources[1].values() if isinstance(group, dict)]
        for source in sources:
            for name in names:
                if source.get(name) is not None:
                    return source[name]
        return None

    @property
    def image_folders(self) -> list[Path]:
        """The folders that pictures may be named relative to: those the scores name, then those of the manifest."""
        named = [one.scores.get("image_folder") for one in reversed(self.evaluations.values())]
        named += [self.argument(key) for key in IMAGE_FOLDER_KEYS]
        return [Path(folder) for folder in dict.fromkeys(named) if isinstance(folder, str) and folder]


def read_run(folder: Path) -> Run:
    """Read a run folder; where stages trained in folders below it, the last one is the run and the others `earlier`.

    Unreadable files become `problems`; only a missing folder raises (FileNotFoundError).
    """
    if not folder.is_dir():
        raise FileNotFoundError(folder)
    problems: list[str] = []
    manifest = _object(folder / "run.json", problems)
    check = _object(folder / "check.json", problems)
    lines = _lines(folder / "log.jsonl", problems)
    rows = [row for row in lines if is_number(row.get("step"))]
    if lines and not rows:
        problems.append(f"log.jsonl: none of its {len(lines)} lines has a step")
    found = _evaluations(folder, problems)
    earlier: list[Run] = []
    stage = ""
    if not manifest and not rows:
        stages = _stages(folder)
        if stages:
            *earlier, last = stages
            stage = last.name
            manifest, rows, check = last.manifest, last.rows, check or last.check
            problems += [f"{last.name}/{problem}" for problem in last.problems]
            inner = [*last.evaluations.values(), *last.probes, *last.gauges]
            found = {**{one.name: one for one in inner}, **found}
    if "baseline" not in found and FIRST in found:
        found["baseline"] = replace(found.pop(FIRST), name="baseline")
    probes = sorted((e for name, e in found.items() if name.startswith(PROBE)), key=_order)
    gauges = sorted((e for name, e in found.items() if name.startswith(GAUGE)), key=_order)
    main = sorted((e for name, e in found.items() if not name.startswith((PROBE, GAUGE))), key=_order)
    certificate = _object(_certificate(folder), problems)
    evaluations = {e.name: e for e in main}
    return Run(folder, manifest, rows, evaluations, probes, gauges, check, problems, earlier, stage, certificate)


def _certificate(folder: Path) -> Path:
    """Where `certify` wrote: into the run, or into the folder below it that holds the model."""
    below = sorted(folder.glob(f"*/{CERTIFICATE}"), key=lambda path: path.stat().st_mtime)
    own = folder / CERTIFICATE
    return own if own.exists() or not below else below[-1]


def _stages(folder: Path) -> list[Run]:
    """The stages that trained in folders of their own below a run, first to last."""
    found = [path for path in sorted(folder.iterdir()) if (path / "run.json").exists() or (path / "log.jsonl").exists()]
    return sorted((read_run(path) for path in found), key=lambda run: str(run.manifest.get("started", "")))


def is_number(value: Any) -> bool:
    """Return whether the value is a number that can be drawn: finite, at most LARGEST, and not a truth value."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= LARGEST


def is_broken(value: Any) -> bool:
    """Return whether the value is a number, but NaN or infinite."""
    return isinstance(value, float) and not math.isfinite(value)


def _order(evaluation: Evaluation) -> tuple[int, int, str]:
    name = BESIDE.sub("", evaluation.name, count=1) or "final"
    number = NUMBER_IN_NAME.search(name)
    ranks = {"baseline": 0, "text_prior": 1, "blind": 2, "shuffled": 3, "final": 6}
    return ranks.get(name, 5), int(number.group(1)) if number else 0, name


def _evaluations(folder: Path, problems: list[str]) -> dict[str, Evaluation]:
    names = {path.stem.removeprefix("scores-") for path in folder.glob("scores-*.json")}
    names |= {path.stem.removeprefix("predictions-") for path in folder.glob("predictions-*.jsonl")}
    evaluations = {}
    for name in sorted(names):
        predictions = _predictions(folder / f"predictions-{name}.jsonl", problems)
        scores = _object(folder / f"scores-{name}.json", problems)
        if not is_number(scores.get("exact_match")):
            if not predictions:
                continue
            scores = metrics.score(predictions)
        evaluations[name] = Evaluation(name, scores, predictions)
    return evaluations


def _predictions(path: Path, problems: list[str]) -> list[dict[str, Any]]:
    rows = _lines(path, problems)
    fitting = [row for row in rows if is_prediction(row)]
    if len(fitting) < len(rows):
        problems.append(f"{path.name}: {len(rows) - len(fitting)} lines are no predictions and are left out")
    return fitting


def _object(path: Path, problems: list[str]) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        value = read_document(path)
    except (OSError, UserError) as error:
        problems.append(f"{path.name} cannot be read: {error}")
        return {}
    if not isinstance(value, dict):
        problems.append(f"{path.name} holds a {type(value).__name__} where an object is expected")
        return {}
    return value


def _lines(path: Path, problems: list[str]) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    try:
        lines = require_regular(path).read_text(encoding="utf-8").split("\n")
    except (OSError, ValueError, DataError) as error:
        problems.append(f"{path.name} cannot be read: {error}")
        return []
    rows, num_broken = [], 0
    for number, line in enumerate(lines, start=1):
        try:
            value = parse_json(line.encode(), path, number) if line.strip() else None
        except (ValueError, DataError):
            # The last line of a log has no end yet while the trainer writes it.
            num_broken += number < len(lines) or path.name != "log.jsonl"
            continue
        if isinstance(value, dict):
            rows.append(value)
        elif line.strip():
            num_broken += 1
    if num_broken:
        problems.append(f"{path.name}: {num_broken} lines are not JSON and are left out")
    elif not rows:
        problems.append(f"{path.name} holds no line that can be used")
    return rows
