"""Training curves and scores as PNG pictures, for a README, a paper or a machine without a browser.

write_curves(read_run(Path("runs/quickstart")), Path("runs/quickstart"))
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_prep.files import atomic_file
from llava_finetune.report.charts import smoothed
from llava_finetune.report.run_folder import CONTROLS, Run, is_number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, DIM, RULE = "#1d2126", "#646b75", "#e2dfd8"
BLUE, ORANGE, GREEN, PURPLE, TEAL, OLIVE, GREY = (
    "#1f6fb2", "#c8650a", "#2f8a6b", "#8a4fa3", "#2b8c9e", "#6b7a1f", "#9aa1ab",
)  # fmt: skip
LEFT, BOTTOM, TOP = 0.5, 0.45, 0.4
"""Inches beside, below and above axes for their numbers and title."""
TYPE_TITLES = {"all": "All", "yes_no": "Yes/no", "number": "Number", "open": "Open"}

Line = tuple[str, str, str]
PANELS: dict[str, tuple[Line, ...]] = {
    "Loss": (("loss", "train", BLUE), ("eval_loss", "held out", ORANGE)),
    "Scores on held-out data, %": (
        ("eval_exact_match", "exact match", BLUE),
        ("eval_vqa_accuracy", "VQA accuracy", GREEN),
        ("probe_exact_match", "probe set", ORANGE),
    ),
    "Gradient norm": (("grad_norm", "", PURPLE),),
    "Learning rate": (("learning_rate", "", GREEN),),
    "Tokens per second": (("tokens_per_second", "", TEAL),),
    "Memory, GB per process": (("memory_gb", "", OLIVE),),
}


def write_curves(run: Run, folder: Path) -> list[Path]:
    """Write `curves.png`, `loss.png` and `scores.png`, each where the run has numbers for it; return those written."""
    written = []
    panels = [(title, lines) for title, lines in PANELS.items() if any(run.points(key) for key, _, _ in lines)]
    if panels:
        written.append(_save(_grid(run, panels), folder / "curves.png"))
    if run.points("loss"):
        written.append(_save(_grid(run, [("Loss", PANELS["Loss"])]), folder / "loss.png"))
    bars = _bars(run)
    if bars:
        written.append(_save(_scores(bars), folder / "scores.png"))
    return written


def _grid(run: Run, panels: Sequence[tuple[str, tuple[Line, ...]]]) -> Figure:
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    figure = _figure(4.4 * columns + 0.4, 2.9 * rows, rows, columns)
    for number, (title, lines) in enumerate(panels, start=1):
        axes = figure.add_subplot(rows, columns, number)
        _panel(axes, run, title, lines)
    return figure


def _figure(width: float, height: float, rows: int = 1, columns: int = 1, right: float = 0.1) -> Figure:
    """An empty figure, sizes in inches, with room for the titles and numbers of a grid of axes and `right` of it.

    matplotlib's constrained layout finds the same room by laying out every text several times.
    """
    from matplotlib.figure import Figure

    # A Figure of its own, no pyplot: no global state, no display, safe inside a training process.
    figure = Figure(figsize=(width, height))
    wide = (width - LEFT * columns - right) / columns
    high = height / rows - BOTTOM - TOP
    figure.subplots_adjust(
        LEFT / width, BOTTOM / height, 1 - right / width, 1 - TOP / height, LEFT / wide, (BOTTOM + TOP) / high
    )
    return figure


def _panel(axes: Axes, run: Run, title: str, lines: tuple[Line, ...]) -> None:
    scale = 100 if title.endswith("%") else 1
    for key, label, colour in lines:
        points = [(step, scale * value) for step, value in run.points(key)]
        if not points:
            continue
        few = len(points) <= 30
        noisy = key in ("loss", "grad_norm") and not few
        steps = [step for step, _ in points]
        axes.plot(steps, [y for _, y in points], color=colour, lw=1.8, alpha=0.3 if noisy else 1.0,
                  marker="o" if key.startswith(("eval", "probe")) and few else None, ms=4,
                  label=None if noisy else label)  # fmt: skip
        if noisy:
            axes.plot(steps, [y for _, y in smoothed(points)], color=colour, lw=1.8, label=label)
    if scale == 100:
        axes.set_ylim(0, 101)
        prior = run.evaluations.get("text_prior")
        if prior:
            axes.axhline(100 * prior.scores["exact_match"], color=DIM, ls="--", lw=1, label="text-only prior")
    else:
        axes.set_ylim(0, axes.get_ylim()[1] * 1.04)
        axes.ticklabel_format(axis="y", scilimits=(-3, 4))
    _dress(axes, title)
    if axes.get_legend_handles_labels()[1]:
        axes.legend(frameon=False, fontsize=8)
    axes.set_xlabel("step", color=DIM, fontsize=8)


def _bars(run: Run) -> list[tuple[str, str, Mapping[str, Any]]]:
    names = ["baseline", *CONTROLS, "final"]
    colours = {"baseline": GREY, "text_prior": "#d8b384", "blind": "#cfc9bd", "shuffled": "#b3a7c4", "final": BLUE}
    found = [run.evaluations[name] for name in names if name in run.evaluations]
    return [(one.label, colours[one.name], one.scores) for one in found]


def _scores(bars: Sequence[tuple[str, str, Mapping[str, Any]]]) -> Figure:
    types = [name for name in TYPE_TITLES if name == "all" or any(name in s.get("by_type", {}) for _, _, s in bars)]
    types = types if len(types) > 2 else ["all"]
    key = 0.6 + 0.065 * max(len(label) for label, _, _ in bars)
    figure = _figure(2.6 + 2.1 * len(types), 3.4, right=key)
    axes = figure.add_subplot()
    width = 0.8 / len(bars)
    for place, (label, colour, scores) in enumerate(bars):
        for column, name in enumerate(types):
            group = scores if name == "all" else scores.get("by_type", {}).get(name)
            if group and is_number(group.get("exact_match")):
                _bar(
                    axes,
                    column + (place - (len(bars) - 1) / 2) * width,
                    width,
                    group,
                    colour,
                    label if column == 0 else None,
                )
    axes.set_xticks(range(len(types)), [TYPE_TITLES[name] for name in types])
    axes.set_ylim(0, 108)
    axes.set_yticks([0, 25, 50, 75, 100])
    _dress(axes, "Exact match on held-out pictures, % (95 % intervals)")
    axes.grid(axis="x", visible=False)
    axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def _bar(axes: Axes, x: float, width: float, group: Mapping[str, Any], colour: str, label: str | None) -> None:
    value = 100 * group["exact_match"]
    axes.bar(x, value, width * 0.92, color=colour, label=label)
    bounds = group.get("interval")
    top = value
    if isinstance(bounds, (list, tuple)):
        low, high = 100 * bounds[0], 100 * bounds[1]
        axes.errorbar(x, value, [[max(0.0, value - low)], [max(0.0, high - value)]], color=INK, lw=1.1, capsize=2.5)
        top = high
    axes.text(
        x, top + 1.5, f"{value:.0f}" if value in (0, 100) else f"{value:.1f}", ha="center", fontsize=7.5, color=INK
    )


def _dress(axes: Axes, title: str) -> None:
    axes.set_title(title, loc="left", fontsize=10, color=INK, fontweight="bold")
    axes.grid(color=RULE, lw=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(RULE)
    axes.tick_params(colors=DIM, labelsize=8, length=0)


def _save(figure: Figure, path: Path) -> Path:
    with atomic_file(path) as stream:
        figure.savefig(stream, format="png", dpi=130, facecolor="white")
    return path
