"""Line charts as SVG text, drawn once for light, dark and print: colours come from the page's style.

A chart reads without script; with it, pointing at a chart shows the values of the nearest step (`page.js`).

    svg = line_chart("Loss", [Series("train", "a", [(1, 2.3), (2, 1.9)])])
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from llava_finetune.report.numbers import short, ticks

Point = tuple[float, float]
WIDTH, HEIGHT = 400, 200
LEFT, RIGHT, TOP, BOTTOM = 48, 12, 10, 26
MAX_POINTS = 300
# A range of more than two decades is unreadable on a linear axis.
LOG_RATIO = 200


@dataclass(frozen=True)
class Series:
    """One line: its name, its colour class (`a` to `h`), its (step, value) points, and how it is drawn."""

    name: str
    colour: str
    points: Sequence[Point]
    smooth: bool = False
    dots: bool = False


@dataclass(frozen=True)
class Level:
    """A horizontal line to compare with, such as the text-only prior; a second one of a chart is drawn `dotted`."""

    name: str
    value: float
    style: str = "dashed"


def line_chart(
    title: str, series: Sequence[Series], *, levels: Sequence[Level] = (), share: bool = False, zero: bool = True
) -> str:
    """Return a `<figure>` with the chart, or an empty text when no series has a point.

    `share` fixes the axis to 0 to 100 %; `zero` starts it at 0. Series with `smooth` show the raw line faintly under
    its running mean.
    """
    drawn = [one for one in series if one.points]
    if not drawn:
        return ""
    frame = _frame(drawn, share, zero)
    body = [frame.grid(), *(frame.level(level) for level in levels)]
    for one in drawn:
        body.append(frame.line(one))
    data = [{"name": one.name, "colour": one.colour, "points": thinned(one.points)} for one in drawn]
    spoken = "; ".join(f"{one.name} ends at {frame.label(one.points[-1][1])}" for one in drawn)
    legend = "".join(
        f'<span class="key {one.colour}">{escape(one.name)} <b>{frame.label(one.points[-1][1])}</b></span>'
        for one in drawn
    ) + "".join(
        f'<span class="key level {one.style}">{escape(one.name)} <b>{frame.label(one.value)}</b></span>'
        for one in levels
    )
    return (
        f'<figure class="chart" data-series="{escape(json.dumps(data), quote=True)}" data-frame="{frame.as_data()}">'
        f'<figcaption><b>{escape(title)}</b><span class="keys">{legend}</span><span class="read"></span></figcaption>'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(f"{title}: {spoken}", quote=True)}">'
        f'{"".join(body)}<line class="cursor" y1="{TOP}" y2="{HEIGHT - BOTTOM}" hidden/></svg></figure>'
    )


def thinned(points: Sequence[Point], limit: int = MAX_POINTS) -> list[Point]:
    """Return at most about `limit` points that keep the first, the last, and the extremes of every stretch between."""
    if len(points) <= limit:
        return list(points)
    size = math.ceil(2 * len(points) / limit)
    kept = {points[0], points[-1]}
    for start in range(0, len(points), size):
        stretch = points[start : start + size]
        kept |= {min(stretch, key=lambda point: point[1]), max(stretch, key=lambda point: point[1])}
    return sorted(kept)


def smoothed(points: Sequence[Point]) -> list[Point]:
    """Return the mean of each point and its neighbours, a thirtieth of the line to either side: smooth without lag."""
    reach = max(1, len(points) // 30)
    result = []
    for place, (step, _) in enumerate(points):
        near = min(reach, place, len(points) - 1 - place)
        values = [value for _, value in points[place - near : place + near + 1]]
        result.append((step, sum(values) / len(values)))
    return result


@dataclass(frozen=True)
class Frame:
    """The axes of one chart, and how values become places on it."""

    steps: tuple[float, float]
    y_ticks: tuple[float, ...]
    log: bool
    share: bool

    def x(self, step: float) -> float:
        """Return the horizontal place of a step."""
        first, last = self.steps
        part = (step - first) / (last - first) if last > first else 0.5
        return round(LEFT + part * (WIDTH - LEFT - RIGHT), 1)

    def y(self, value: float) -> float:
        """Return the vertical place of a value."""
        low, high = self._scaled(self.y_ticks[0]), self._scaled(self.y_ticks[-1])
        part = min(1.0, max(0.0, (self._scaled(value) - low) / (high - low)))
        return round(HEIGHT - BOTTOM - part * (HEIGHT - TOP - BOTTOM), 1)

    def label(self, value: float) -> str:
        """Return a value as its axis shows it."""
        return f"{100 * value:.1f}\u00a0%" if self.share else short(value)

    def grid(self) -> str:
        """Return the grid with its labels."""
        parts = []
        for value in self.y_ticks:
            text = f"{100 * value:.0f}\u00a0%" if self.share else short(value)
            parts.append(
                f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{self.y(value)}" y2="{self.y(value)}"/>'
            )
            parts.append(f'<text class="tick" x="{LEFT - 6}" y="{self.y(value) + 3.5}" text-anchor="end">{text}</text>')
        first, last = self.steps
        inside = [step for step in ticks(first, last) if first <= step <= last]
        for step in inside if len(inside) > 1 else sorted({first, last}):
            parts.append(
                f'<text class="tick" x="{self.x(step)}" y="{HEIGHT - 9}" text-anchor="middle">{short(step)}</text>'
            )
        return "".join(parts)

    def level(self, level: Level) -> str:
        """Return a broken line across the chart."""
        y = self.y(level.value)
        return f'<line class="level {level.style}" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}"/>'

    def line(self, series: Series) -> str:
        """Return the line of a series, and its dots where it has few points."""
        faint = len(series.points) > 12 and series.smooth
        parts = [self._path(series.points, f"line {series.colour}{' faint' if faint else ''}")]
        if faint:
            parts.append(self._path(smoothed(series.points), f"line {series.colour}"))
        if series.dots or len(series.points) == 1:
            parts += [
                f'<circle class="dot {series.colour}" cx="{self.x(x)}" cy="{self.y(y)}" r="3"/>'
                for x, y in series.points
            ]
        return "".join(parts)

    def as_data(self) -> str:
        """Return first step, last step, left edge and right edge for the script."""
        return f"{self.steps[0]} {self.steps[1]} {LEFT} {WIDTH - RIGHT} {int(self.share)}"

    def _path(self, points: Sequence[Point], style: str) -> str:
        places = " ".join(f"{self.x(x)},{self.y(y)}" for x, y in thinned(points))
        return f'<polyline class="{style}" points="{places}"/>'

    def _scaled(self, value: float) -> float:
        return math.log10(max(value, 1e-30)) if self.log else value


def _frame(series: Sequence[Series], share: bool, zero: bool) -> Frame:
    steps = [point[0] for one in series for point in one.points]
    values = [point[1] for one in series for point in one.points]
    span = (min(steps), max(steps))
    if share:
        return Frame(span, (0.0, 0.25, 0.5, 0.75, 1.0), False, True)
    low, high = min(values), max(values)
    if low > 0 and high / low > LOG_RATIO:
        powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        return Frame(span, tuple(10.0**power for power in powers), True, False)
    return Frame(span, tuple(ticks(min(0.0, low) if zero else low, high)), False, False)
