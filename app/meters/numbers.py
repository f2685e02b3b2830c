"""Numbers as processes hand them to each other: in a form that survives their process, and that adds up."""

from __future__ import annotations

from typing import Self

import msgspec

Labels = tuple[str, ...]

# Stands in no label: routes are templates of ours, and the others words.
_SEPARATOR = "\x1f"


def key_of(labels: tuple[object, ...]) -> str:
    """Label values as one text."""
    return _SEPARATOR.join(map(str, labels))


def labels_of(key: str) -> list[str]:
    return key.split(_SEPARATOR) if key else []


class Numbers(msgspec.Struct, kw_only=True):
    """By metric, then by series (`key_of`). Of a histogram's series the last number is the sum, the others count what
    fell into each bucket, the last of these beyond all bounds.
    """

    counters: dict[str, dict[str, int]] = {}
    histograms: dict[str, dict[str, list[float]]] = {}
    bounds: dict[str, list[float]] = {}
    gauges: dict[str, dict[str, float]] = {}

    def add(self, other: Numbers) -> None:
        """Add what another has counted. Gauges stay: they are of one process.

        A histogram with other bounds, as another version may have written it, is left out.
        """
        for name, values in other.counters.items():
            own = self.counters.setdefault(name, {})
            for key, value in values.items():
                own[key] = own.get(key, 0) + value
        for name, series in other.histograms.items():
            bounds = other.bounds.get(name)
            if bounds is None or self.bounds.setdefault(name, bounds) != bounds:
                continue
            known = self.histograms.setdefault(name, {})
            for key, counts in series.items():
                if len(counts) == len(bounds) + 2:
                    known[key] = [a + b for a, b in zip(known.get(key, [0.0] * len(counts)), counts, strict=True)]

    def encode(self) -> bytes:
        return msgspec.json.encode(self)

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Raises ValueError for what isn't such numbers."""
        return msgspec.json.decode(data, type=cls)
