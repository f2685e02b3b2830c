"""Numbers in the form in which processes share them: it outlives the process, and can be added up."""

from __future__ import annotations

from typing import Self

import msgspec

Labels = tuple[str, ...]

# Occurs in no label: labels are route templates and fixed words of ours.
_SEPARATOR = "\x1f"


def key_of(labels: tuple[object, ...]) -> str:
    """Label values joined to one text."""
    return _SEPARATOR.join(map(str, labels))


def labels_of(key: str) -> list[str]:
    return key.split(_SEPARATOR) if key else []


class Numbers(msgspec.Struct, kw_only=True):
    """Values by metric, then by series (`key_of`). A histogram's series has the count of each bucket, the last one
    being above all bounds, and then the sum of the values.
    """

    counters: dict[str, dict[str, int]] = {}
    histograms: dict[str, dict[str, list[float]]] = {}
    bounds: dict[str, list[float]] = {}
    gauges: dict[str, dict[str, float]] = {}

    def add(self, other: Numbers) -> None:
        """Add another process's counters and histograms. Gauges aren't added: they belong to one process.

        A histogram with other bounds, as another release may have written it, is left out.
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
        """Raises ValueError where the data aren't such numbers."""
        return msgspec.json.decode(data, type=cls)
