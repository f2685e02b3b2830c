"""Figures of interleaved rounds as tables: the median, and from the lowest to the highest round."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import median

RESULTS = Path(__file__).parent / "results"
ROUNDS_SECONDS_MAX = 180.0


@dataclass(frozen=True)
class Effort:
    """How much is measured. On a busy machine fewer rounds, so that the whole ends within four minutes."""

    clients: int
    rounds: int
    seconds: float

    def begin(self, warnings: list[str]) -> Iterator[int]:
        """The numbers of the rounds, as many as there is time for."""
        begun = time.monotonic()
        for i in range(self.rounds):
            # The next round will take about as long as those before it.
            if i and (time.monotonic() - begun) * (i + 1) / i > ROUNDS_SECONDS_MAX:
                warnings.append(f"the machine is busy: there was time for {i} of {self.rounds} rounds")
                return
            yield i

    def __str__(self) -> str:
        return f"{self.rounds} interleaved rounds of {self.seconds:g} s a case; {self.clients} keep-alive clients"


def spread(values: Sequence[float]) -> str:
    """`1,234 (1,100-1,300)`: the median and its range, with decimals only where they say something."""
    if not values:
        return "-"
    middle, least, most = median(values), min(values), max(values)
    if len(values) == 1:
        return _number(middle)
    return f"{_number(middle)} ({_number(least)}-{_number(most)})"


def ratios(above: Sequence[float], below: Sequence[float]) -> list[float]:
    """Round by round, because only what was measured side by side compares."""
    return [a / b for a, b in zip(above, below, strict=True)]


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
    """The last part of a report, if there is anything to complain of."""
    return ["## Not as it should be", "\n".join(f"- {warning}" for warning in warnings)] if warnings else []


def machine_line() -> str:
    """What the figures were measured on."""
    packages = ", ".join(f"{name} {version(name)}" for name in ("granian", "flask", "redis", "psycopg", "sqlalchemy"))
    load = os.getloadavg()[0]
    return (
        f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores (load average {load:.1f} before), "
        f"Python {platform.python_version()}, {packages}. "
        "Embedded Postgres (fsync on) and Valkey (append-only file on)."
    )


def save(name: str, text: str) -> Path:
    """Write a report to benchmarks/results/<name>.md."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.md"
    path.write_text(text + "\n")
    return path


def _number(value: float) -> str:
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"
