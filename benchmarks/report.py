"""Formats figures of interleaved rounds as tables: the median, and the range from the lowest to the highest round."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import median

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Effort:
    """How much to measure. On a busy machine fewer rounds are run, so that the whole ends in time."""

    clients: int
    rounds: int
    seconds: float
    seconds_max: float

    def begin(self, warnings: list[str]) -> Iterator[int]:
        """Yield the numbers of the rounds, as long as there is time for another one."""
        begun = time.monotonic()
        for i in range(self.rounds):
            # Assume that the next round takes as long as the average of those before.
            if i and (time.monotonic() - begun) * (i + 1) / i > self.seconds_max:
                warnings.append(f"the machine is busy: there was time for {i} of {self.rounds} rounds")
                return
            yield i

    def __str__(self) -> str:
        return f"{self.rounds} interleaved rounds of {self.seconds:g} s a case; {self.clients} keep-alive clients"


@dataclass(frozen=True)
class Goal:
    """A line of the table: a figure for each round, and its target.

    `reach` is the minimum of a ratio or, with `is_most`, the maximum of a lag or a spread.
    """

    name: str
    values: Sequence[float]
    reach: float
    unit: str = ""
    is_most: bool = False

    @property
    def is_reached(self) -> bool:
        if not self.values:
            return False
        return median(self.values) <= self.reach if self.is_most else median(self.values) >= self.reach

    @property
    def cells(self) -> list[str]:
        bound = f"under {self.reach:g}" if self.is_most else f"{self.reach:g}"
        unit = f" {self.unit}" if self.unit else ""
        return [self.name, f"{spread(self.values)}{unit}", f"{bound}{unit}", "yes" if self.is_reached else "no"]

    def as_json(self) -> dict[str, object]:
        return {
            "name": self.name,
            "unit": self.unit or "ratio",
            "reach": self.reach,
            "is_most": self.is_most,
            "is_reached": self.is_reached,
            **summary(self.values),
        }


def summary(values: Sequence[float]) -> dict[str, object]:
    """The median, the range and all rounds, for JSON."""
    rounded = [float(f"{value:.5g}") for value in values]
    if not rounded:
        return {"median": None, "lowest": None, "highest": None, "rounds": []}
    return {"median": median(rounded), "lowest": min(rounded), "highest": max(rounded), "rounds": rounded}


def spread(values: Sequence[float]) -> str:
    """`1,234 (1,100-1,300)`: the median and its range, with decimals only where they say something."""
    if not values:
        return "-"
    middle, least, most = median(values), min(values), max(values)
    if len(values) == 1:
        return _number(middle)
    return f"{_number(middle)} ({_number(least)}-{_number(most)})"


def ratios(above: Sequence[float], below: Sequence[float]) -> list[float]:
    """The ratios round by round, because only what was measured side by side can be compared."""
    return [a / b for a, b in zip(above, below, strict=True)]


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which this share of all values lies. Raises ValueError if there are none."""
    if not values:
        raise ValueError("a percentile of nothing")
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose columns also line up as plain text."""
    widths = [max(len(line[i]) for line in [heads, *rows]) for i in range(len(heads))]

    def line(cells: Sequence[str]) -> str:
        padded = [
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        return f"| {' | '.join(padded)} |"

    rule = ["-" * width if i == 0 else "-" * (width - 1) + ":" for i, width in enumerate(widths)]
    return "\n".join([line(heads), line(rule), *map(line, rows)])


def complaints(warnings: Sequence[str]) -> list[str]:
    """The last part of a report: its warnings, if there are any."""
    return ["## Not as it should be", "\n".join(f"- {warning}" for warning in warnings)] if warnings else []


def machine_line() -> str:
    """A line that describes the machine that was measured."""
    packages = ", ".join(f"{name} {version(name)}" for name in ("granian", "flask", "redis", "psycopg", "sqlalchemy"))
    load = os.getloadavg()[0]
    return (
        f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores (load average {load:.1f} before), "
        f"Python {platform.python_version()}, {packages}. "
        "Embedded Postgres (fsync on) and Valkey (append-only file on)."
    )


def save(name: str, text: str, figures: Mapping[str, object] | None = None) -> list[Path]:
    """Write a report to benchmarks/results/<name>.md, and its figures to <name>.json."""
    RESULTS.mkdir(exist_ok=True)
    written = [RESULTS / f"{name}.md"]
    written[0].write_text(text + "\n")
    if figures is not None:
        written.append(RESULTS / f"{name}.json")
        written[1].write_text(json.dumps(figures, indent=2) + "\n")
    return written


def _number(value: float) -> str:
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"
