"""Charts as numbers: where lines and bars go, what stands at the axes. Templates draw them as SVG.

A drawing is a thousand units wide and high, stretched to whatever room there is; texts stand beside it, in HTML. All of
it is integers, as amounts are. Each chart comes with its figures as a table, for whoever can't see it or wants to know
exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from app.console import text

SIDE = 1_000
# Of which a half is round as well.
_STEPS = (2, 4, 10)
LABELS_MAX = 5


@dataclass(frozen=True, slots=True)
class Series:
    """One line: as many values as there are moments; None is a gap."""

    name: str
    values: Sequence[int | None]


@dataclass(frozen=True, slots=True)
class Tick:
    place: int
    label: str


@dataclass(frozen=True, slots=True)
class Zone:
    """A strip of the chart that belongs to one moment, and what it tells when it is pointed at."""

    left: int
    width: int
    label: str


@dataclass(frozen=True, slots=True)
class Line:
    """`paths` are its unbroken parts, as an SVG path writes them; `dots` parts of one value, as (x, y)."""

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
) -> LineChart:
    """Lines over the same moments. `unit` is what an axis counts in: 1, or micro-tokens of a token. `exact` writes the
    table's figures, where `write` rounds them.
    """
    scale = _Scale.of([value for each in series for value in each.values if value is not None], unit)
    width = max(len(moments) - 1, 1)
    xs = [SIDE * i // width for i in range(len(moments))]
    lines = [_line(number, each, xs, scale, write) for number, each in enumerate(series)]
    every = max(1, -(-len(moments) // LABELS_MAX))
    rows = [
        [label(moment), *("-" if each.values[i] is None else (exact or write)(each.values[i] or 0) for each in series)]
        for i, moment in enumerate(moments)
    ]
    return LineChart(
        title=title,
        summary=_summary(series, write, unit_name),
        lines=lines,
        heights=[Tick(scale.height(value), write(value)) for value in (scale.top, scale.middle, scale.bottom)],
        moments=[Tick(xs[i], label(moments[i])) for i in range(0, len(moments), every)],
        zones=[_zone(i, xs, [each.name for each in series], rows[i]) for i in range(len(moments))],
        head=["UTC", *(each.name for each in series)],
        rows=rows,
    )


@dataclass(frozen=True, slots=True)
class Bar:
    label: str
    value: int
    shown: str
    url: str | None
    # Of the longest bar, in thousandths.
    length: int


def bars(rows: Sequence[tuple[str, int, str | None]], write: Callable[[int], str] = text.count) -> Sequence[Bar]:
    """Bars of (label, value, link), in the order given."""
    longest = max((abs(value) for _, value, _ in rows), default=0) or 1
    return [Bar(name, value, write(value), url, SIDE * abs(value) // longest) for name, value, url in rows]


def _line(number: int, series: Series, xs: Sequence[int], scale: _Scale, write: Callable[[int], str]) -> Line:
    parts: list[list[tuple[int, int]]] = [[]]
    for x, value in zip(xs, series.values, strict=True):
        if value is None:
            parts.append([])
        else:
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
    """From the bottom of a chart to its top, each a round number of units; the middle between them is one as well."""

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
    """The next 2, 4 or 10 with noughts behind it, in units."""
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
