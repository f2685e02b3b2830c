"""Computes charts: the positions of lines and bars, and the labels of the axes. Templates draw them as SVG.

A drawing is a thousand units wide and high, and is stretched to the space available; texts are in HTML beside it. All
numbers are integers, as amounts are. Each chart has a table of its figures, for people who can't see it or need them
exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from statistics import median_low

from app.console import text

SIDE = 1_000
# Leading digits of a round number at the end of an axis. Their halves are round, too.
_STEPS = (2, 4, 10)
LABELS_MAX = 5
# A step longer than the usual one by more than this factor is a gap, over which no line is drawn.
GAP_FACTOR = 3


@dataclass(frozen=True, slots=True)
class Series:
    """One line: a value for each moment; None is a gap."""

    name: str
    values: Sequence[int | None]


@dataclass(frozen=True, slots=True)
class Tick:
    place: int
    label: str


@dataclass(frozen=True, slots=True)
class Zone:
    """The strip of a chart that belongs to one moment, with the text shown when it is pointed at."""

    left: int
    width: int
    label: str


@dataclass(frozen=True, slots=True)
class Line:
    """A line as drawn: its unbroken parts as SVG `paths`, and parts of a single value as `dots`, at (x, y)."""

    name: str
    number: int
    paths: Sequence[str]
    dots: Sequence[tuple[int, int]]
    latest: str


@dataclass(frozen=True, slots=True)
class LineChart:
    title: str
    summary: str
    lines: Sequence[Line]
    heights: Sequence[Tick]
    moments: Sequence[Tick]
    zones: Sequence[Zone]
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    # The text shown if there are no figures.
    empty: str

    @property
    def is_empty(self) -> bool:
        return not any(line.paths or line.dots for line in self.lines)


def line_chart(
    title: str,
    moments: Sequence[datetime],
    series: Sequence[Series],
    write: Callable[[int], str] = text.count,
    *,
    label: Callable[[datetime], str] = text.minute,
    unit: int = 1,
    unit_name: str = "",
    exact: Callable[[int], str] | None = None,
    empty: str = "No figures yet: they are taken once a minute while beat and a worker run.",
) -> LineChart:
    """A chart of lines over the same moments. Moments are placed in proportion to time, and lines have gaps where
    moments are missing. `unit` is the unit of the value axis: 1, or the micro-tokens of a token. `exact` formats the
    figures of the table, if `write` rounds them.
    """
    scale = _Scale.of([value for each in series for value in each.values if value is not None], unit)
    axis = _Axis(_places(moments), _gaps(moments))
    lines = [_line(number, each, axis, scale, write) for number, each in enumerate(series)]
    rows = [
        [label(moment), *("-" if each.values[i] is None else (exact or write)(each.values[i] or 0) for each in series)]
        for i, moment in enumerate(moments)
    ]
    return LineChart(
        title=title,
        summary=_summary(series, write, unit_name),
        lines=lines,
        heights=[Tick(scale.height(value), write(value)) for value in (scale.top, scale.middle, scale.bottom)],
        moments=[Tick(place, label(moment)) for place, moment in _ticks(moments)],
        zones=[_zone(i, axis.places, [each.name for each in series], rows[i]) for i in range(len(moments))],
        head=[f"UTC{f', {unit_name}' if unit_name else ''}", *(each.name for each in series)],
        rows=rows,
        empty=empty,
    )


@dataclass(frozen=True, slots=True)
class Bar:
    label: str
    value: int
    shown: str
    url: str | None
    # In thousandths of the longest bar's length.
    length: int


def bars(rows: Sequence[tuple[str, int, str | None]], write: Callable[[int], str] = text.count) -> Sequence[Bar]:
    """Bars of (label, value, link), in the order given."""
    longest = max((abs(value) for _, value, _ in rows), default=0) or 1
    return [Bar(name, value, write(value), url, SIDE * abs(value) // longest) for name, value, url in rows]


def _places(moments: Sequence[datetime]) -> list[int]:
    """The x of each moment. If all moments are the same, they are spread evenly."""
    if len(moments) < 2:
        return [0] * len(moments)
    whole = moments[-1] - moments[0]
    if not whole:
        return [SIDE * i // (len(moments) - 1) for i in range(len(moments))]
    return [SIDE * (moment - moments[0]) // whole for moment in moments]


def _gaps(moments: Sequence[datetime]) -> set[int]:
    """The indices of moments that come after a gap."""
    steps = [later - earlier for earlier, later in pairwise(moments)]
    if not steps:
        return set()
    longest = GAP_FACTOR * median_low(steps)
    return {i for i, step in enumerate(steps, 1) if step > longest}


def _ticks(moments: Sequence[datetime]) -> list[tuple[int, datetime]]:
    """The labels of the time axis: its two ends, and evenly spaced moments between them."""
    if len(moments) < 2:
        return [(0, moment) for moment in moments]
    parts = min(LABELS_MAX, len(moments)) - 1
    return [(SIDE * i // parts, moments[0] + (moments[-1] - moments[0]) * i / parts) for i in range(parts + 1)]


@dataclass(frozen=True, slots=True)
class _Axis:
    """The x of each moment, and the indices of moments that come after a gap."""

    places: Sequence[int]
    gaps: set[int]


def _line(number: int, series: Series, axis: _Axis, scale: _Scale, write: Callable[[int], str]) -> Line:
    parts: list[list[tuple[int, int]]] = [[]]
    for i, (x, value) in enumerate(zip(axis.places, series.values, strict=True)):
        if value is None or i in axis.gaps:
            parts.append([])
        if value is not None:
            parts[-1].append((x, scale.height(value)))
    paths = ["M" + "L".join(f"{x} {y}" for x, y in part) for part in parts if len(part) > 1]
    known = [value for value in series.values if value is not None]
    return Line(
        series.name,
        number,
        paths,
        [part[0] for part in parts if len(part) == 1],
        write(known[-1]) if known else "-",
    )


@dataclass(frozen=True, slots=True)
class _Scale:
    """The value axis. Its bottom, its top and the middle between them are round numbers of units."""

    bottom: int
    top: int

    @classmethod
    def of(cls, values: Sequence[int], unit: int) -> _Scale:
        bottom, top = -_round_up(-min([0, *values]), unit), _round_up(max([0, *values]), unit)
        return cls(bottom, top if top > bottom else bottom + 2 * unit)

    @property
    def middle(self) -> int:
        return (self.bottom + self.top) // 2

    def height(self, value: int) -> int:
        return SIDE - SIDE * (value - self.bottom) // (self.top - self.bottom)


def _zone(i: int, xs: Sequence[int], names: Sequence[str], row: Sequence[str]) -> Zone:
    left = (xs[max(i - 1, 0)] + xs[i]) // 2
    right = (xs[i] + xs[min(i + 1, len(xs) - 1)]) // 2
    label = "\n".join([row[0], *(f"{name}: {value}" for name, value in zip(names, row[1:], strict=True))])
    return Zone(left, max(right - left, 1), label)


def _round_up(value: int, unit: int) -> int:
    """The least number that isn't below `value` and is 2, 4 or 10 times a power of ten, in units."""
    if value <= 0:
        return 0
    size = unit
    while True:
        for step in _STEPS:
            if step * size >= value:
                return step * size
        size *= 10


def _summary(series: Sequence[Series], write: Callable[[int], str], unit_name: str) -> str:
    told = []
    for each in series:
        known = [value for value in each.values if value is not None]
        if known:
            told.append(f"{each.name}: now {write(known[-1])}, lowest {write(min(known))}, highest {write(max(known))}")
    return "; ".join(told) + (f" ({unit_name})" if told and unit_name else "") if told else "No figures yet."
