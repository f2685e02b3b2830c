"""The table printed at the end of a run, for people and as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median

HEADINGS = (
    "fault",
    "times",
    "acknowledged",
    "lost",
    "double",
    "seconds to recover (median, longest)",
    "a bystander's to settle meanwhile",
)


@dataclass(slots=True)
class Row:
    fault: str
    times: int = 0
    acknowledged: int = 0
    lost: int = 0
    double: int = 0
    recoveries: list[float] = field(default_factory=list)
    # Settlement times of ends of wallets that the fault doesn't touch, sent while it lasted.
    bystanders: list[float] = field(default_factory=list)

    @property
    def cells(self) -> tuple[str, ...]:
        return (
            self.fault,
            str(self.times),
            str(self.acknowledged),
            str(self.lost),
            str(self.double),
            _median_and_longest(self.recoveries),
            _median_and_longest(self.bystanders),
        )


def total(rows: Sequence[Row]) -> Row:
    return Row(
        "all",
        sum(row.times for row in rows),
        sum(row.acknowledged for row in rows),
        sum(row.lost for row in rows),
        sum(row.double for row in rows),
        [seconds for row in rows for seconds in row.recoveries],
        [seconds for row in rows for seconds in row.bystanders],
    )


def _median_and_longest(seconds: Sequence[float]) -> str:
    return f"{median(seconds):.1f}, {max(seconds):.1f}" if seconds else "-"


def table(rows: Sequence[Row]) -> str:
    """Aligned columns under headings; valid Markdown too."""
    lines = [HEADINGS, *(row.cells for row in [*rows, total(rows)])]
    widths = [max(len(line[i]) for line in lines) for i in range(len(HEADINGS))]
    first = [0]
    text = ["| " + " | ".join(_aligned(line, widths, first)) + " |" for line in lines]
    rule = "|" + "|".join("-" * (width + 1) + ("-" if i in first else ":") for i, width in enumerate(widths)) + "|"
    return "\n".join([text[0], rule, *text[1:]])


def _aligned(line: Sequence[str], widths: Sequence[int], left: Sequence[int]) -> list[str]:
    return [
        cell.ljust(width) if i in left else cell.rjust(width)
        for i, (cell, width) in enumerate(zip(line, widths, strict=True))
    ]


def markdown(seed: int, command: str, kills: int, seconds: float, rows: Sequence[Row], verdict: str) -> str:
    return (
        f"# Chaos run, seed {seed}\n\n`{command}`\n\n"
        f"{kills} kills in {seconds:.0f} seconds. {verdict}\n\n{table(rows)}\n"
    )
