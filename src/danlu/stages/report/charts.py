"""Charts as inline SVG.

The plot stretches to whatever width the page has (`preserveAspectRatio="none"`, strokes that do not scale), and the
words around it are HTML placed by percent, so the same chart is sharp and legible on a phone, a desk and paper, and
works without a script. The numbers for the read-out travel beside it as JSON.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Literal

from markupsafe import Markup

from danlu.stages.report.html import render
from danlu.stages.report.records import Series
from danlu.stages.report.words import count, significant, tick

Style = Literal["quiet", "plain", "accent"]
WIDTH, HEIGHT = 1000.0, 400.0
MOST_POINTS = 320
FEW_POINTS = 40


@dataclasses.dataclass(frozen=True, kw_only=True)
class Line:
    """One curve: what it is called, its numbers and how it is drawn."""

    label: str
    series: Series
    style: Style = "plain"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mark:
    """A moment to point at: a thin upright line with a title."""

    step: float
    title: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Axis:
    """From numbers to places in [0, 1], and the ticks between them."""

    low: float
    high: float
    log: bool = False

    def place(self, value: float) -> float:
        low, high, value = (math.log10(v) if self.log else v for v in (self.low, self.high, value))
        return min(1.0, max(0.0, (value - low) / (high - low)))

    def ticks(self, most: int) -> list[float]:
        """At most `most` round numbers inside the axis."""
        if self.log:
            powers = range(math.ceil(math.log10(self.low) - 1e-9), math.floor(math.log10(self.high) + 1e-9) + 1)
            every = max(1, math.ceil(len(powers) / most))
            if len(powers) >= 2:
                return [10.0**power for power in powers if power % every == 0]
        step = _round_step((self.high - self.low) / max(1, most - 1))
        first = math.ceil(self.low / step - 1e-9)
        return [at * step for at in range(first, math.floor(self.high / step + 1e-9) + 1)][:most]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Thinned:
    """A series in at most MOST_POINTS buckets: mean, lowest and highest of each; None where a number was not finite."""

    xs: list[float]
    means: list[float | None]
    lows: list[float | None]
    highs: list[float | None]


def chart(
    lines: Sequence[Line],
    *,
    title: str,
    caption: str = "",
    show: Callable[[float], str] = significant,
    from_zero: bool = False,
    marks: Sequence[Mark] = (),
    tall: bool = False,
    until: float = 0.0,
) -> Markup | None:
    """A figure with curves over steps; None when there is nothing to draw.

    Args:
        show: how a number of the y axis is written.
        until: how far the x axis reaches at least, so that charts beside each other share it.
        from_zero: the y axis starts at zero, for amounts; a log axis is taken instead where numbers span decades.
    """
    lines = [line for line in lines if line.series]
    if not lines:
        return None
    x_axis = Axis(low=0.0, high=max([1.0, until, *(x for line in lines for x in line.series.xs)]))
    y_axis = _y_axis([y for line in lines for y in line.series.finite], from_zero=from_zero)
    thinned = [(line, thin(line.series)) for line in lines]
    return render(
        "chart",
        title=title,
        caption=caption + (" The scale is logarithmic." if y_axis.log else ""),
        tall=tall,
        viewbox=f"0 0 {WIDTH:.0f} {HEIGHT:.0f}",
        x_ticks=[(100 * x_axis.place(at), tick(count(at))) for at in x_axis.ticks(5) if at == int(at)],
        y_ticks=[(100 - 100 * y_axis.place(at), tick(show(at))) for at in y_axis.ticks(5)],
        curves=[_curve(line, points, x_axis, y_axis) for line, points in thinned],
        marks=[(WIDTH * x_axis.place(mark.step), mark.title) for mark in marks if x_axis.low <= mark.step],
        spoken=_spoken(title, lines, show),
        data={
            "x": [x_axis.low, x_axis.high],
            "y": [y_axis.low, y_axis.high, y_axis.log],
            "lines": [
                {
                    "label": line.label,
                    "style": line.style,
                    "x": points.xs,
                    "y": points.means,
                    "text": ["not finite" if mean is None else show(mean) for mean in points.means],
                }
                for line, points in thinned
            ],
        },
    )


def heat(rows: Sequence[tuple[str, Series]], *, title: str, caption: str, low: float, high: float) -> Markup | None:
    """Rows of cells over steps, darker for more, on a log scale from `low` to `high`; None when there is nothing."""
    rows = [(name, series) for name, series in rows if series]
    if not rows:
        return None
    columns = [thin(series, most=60) for _, series in rows]
    width = WIDTH / max(len(points.xs) for points in columns)
    cells = [
        (round(at * width, 2), row, round(_shade(mean, low, high), 3))
        for row, points in enumerate(columns)
        for at, mean in enumerate(points.means)
    ]
    longest = max(columns, key=lambda points: len(points.xs))
    return render(
        "heat",
        title=title,
        caption=caption,
        cells=cells,
        width=round(width, 2),
        names=[name for name, _ in rows],
        steps=(count(longest.xs[0]), count(longest.xs[-1])),
        legend=[(round(_shade(at, low, high), 3), tick(significant(at))) for at in _decades(low, high)],
        data={
            "names": [name for name, _ in rows],
            "x": [count(x) for x in longest.xs],
            "text": [["–" if m is None else significant(m, 2) for m in points.means] for points in columns],
        },
    )


def thin(series: Series, most: int = MOST_POINTS) -> Thinned:
    """At most `most` buckets of equal length, each with its mean, lowest and highest."""
    every = max(1, math.ceil(len(series.xs) / most))
    buckets = [(series.xs[at : at + every], series.ys[at : at + every]) for at in range(0, len(series.xs), every)]
    finite = [[y for y in ys if math.isfinite(y)] if all(map(math.isfinite, ys)) else [] for _, ys in buckets]
    return Thinned(
        xs=[xs[-1] for xs, _ in buckets],
        means=[sum(ys) / len(ys) if ys else None for ys in finite],
        lows=[min(ys) if ys else None for ys in finite],
        highs=[max(ys) if ys else None for ys in finite],
    )


def _y_axis(ys: Sequence[float], *, from_zero: bool) -> Axis:
    low, high, middle = min(ys), max(ys), sorted(ys)[len(ys) // 2]
    if low > 0 and high > 20 * middle:
        return Axis(low=low * 0.9, high=high * 1.1, log=True)
    if from_zero and low >= 0:
        return Axis(low=0.0, high=high * 1.08 or 1.0)
    room = 0.06 * (high - low) or abs(high) * 0.1 or 1.0
    return Axis(low=low - room, high=high + room)


def _round_step(rough: float) -> float:
    power = 10.0 ** math.floor(math.log10(rough))
    return next(size * power for size in (1, 2, 2.5, 5, 10) if size * power >= rough * (1 - 1e-9))


def _curve(line: Line, points: Thinned, x_axis: Axis, y_axis: Axis) -> dict[str, object]:
    place = lambda x, y: f"{WIDTH * x_axis.place(x):.1f} {HEIGHT - HEIGHT * y_axis.place(y):.1f}"  # noqa: E731
    pieces: list[list[int]] = [[]]
    for at, mean in enumerate(points.means):
        pieces[-1].append(at) if mean is not None else pieces.append([])
    pieces = [piece for piece in pieces if piece]
    path = lambda ys, piece: " L".join(place(points.xs[at], ys[at]) for at in piece)  # noqa: E731
    band = [piece for piece in pieces if any(points.lows[at] != points.highs[at] for at in piece)]
    dotted = [at for piece in pieces for at in piece if len(points.xs) <= FEW_POINTS or len(piece) == 1]
    return {
        "label": line.label,
        "style": line.style,
        "path": " ".join("M" + path(points.means, piece) for piece in pieces if len(piece) > 1),
        "band": " ".join(f"M{path(points.highs, p)} L{path(points.lows, p[::-1])}Z" for p in band),
        "dots": " ".join(f"M{place(points.xs[at], points.means[at])}h0" for at in dotted),
    }


def _spoken(title: str, lines: Sequence[Line], show: Callable[[float], str]) -> str:
    said = [f"{line.label} from {show(line.series.finite[0])} to {show(line.series.finite[-1])}" for line in lines]
    return f"{title}: {', '.join(said)}"


def _decades(low: float, high: float) -> list[float]:
    return [10.0**power for power in range(round(math.log10(low)), round(math.log10(high)) + 1)]


def _shade(value: float | None, low: float, high: float) -> float:
    if value is None or value <= 0:
        return 0.0
    return 0.04 + 0.96 * Axis(low=low, high=high, log=True).place(value)
