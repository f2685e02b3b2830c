"""What was read of one answer of a model."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tokentill.errors import UsageError
from tokentill.usage.model import COUNTS, WITHIN, Usage
from tokentill.usage.shapes import Reading

Counts = dict[str, int]


@dataclass
class Answer:
    """Pieces, increments and totals, and which of them count in the end."""

    answer_id: str | None = None
    model: str | None = None
    # Said by the feature itself, beside whatever a provider reports.
    used: Counts = field(default_factory=dict)
    added: Counts = field(default_factory=dict)
    total: Counts = field(default_factory=dict)
    pieces: int = 0
    # The totals will grow: the provider said that it goes on.
    growing: bool = False
    # The model has stopped, so that no total grows any more.
    stopped: bool = False
    # The provider gave up in the middle of it.
    broken: bool = False
    over: bool = False
    # The stream it came by, 0 for none, and whether that was left before its end; None while it goes on.
    lane: int = 0
    left: bool | None = None
    of_model: bool = False
    # Counted by the feature or its extractor, whose word is above any count of pieces.
    own: bool = False
    report: Any = None
    unreadable: UsageError | None = None

    @property
    def only_pieces(self) -> bool:
        return self.answer_id is None and not (self.over or self.used or self.added or self.total)

    def incomplete(self, *, by_pieces: bool) -> bool:
        """Text flowed and nobody said how many tokens it was: what was said of the input isn't all."""
        known = self.total.get("output_token", self.added.get("output_token"))
        unknown = known is None or (self.growing and known < self.pieces)
        return unknown and self.pieces > 0 and not by_pieces

    def take(self, reading: Reading) -> None:
        usage = reading.usage
        self.model = usage.model or self.model
        self.pieces += reading.pieces
        self.stopped = self.stopped or reading.stopped
        self.broken = self.broken or reading.broken
        self.of_model = self.of_model or not reading.own
        self.own = self.own or (reading.own and usage.said)
        if reading.unreadable is not None:
            self.report, self.unreadable = reading.report, reading.unreadable
        elif usage.said and usage.kind == "total":
            self.report = reading.report
            self._replace(usage, input_at_least=reading.input_at_least)
        elif usage.said:
            add(self.added, usage)
        elif self.report is None:
            self.report = reading.report

    def _replace(self, usage: Usage, *, input_at_least: bool) -> None:
        # A total that can be read makes up for an earlier one that couldn't: it is about the same tokens.
        self.unreadable = None
        self.growing = usage.final is False and not self.stopped
        for whole, parts in WITHIN.items():
            said = getattr(usage, whole)
            known = self.total.get(whole, 0) if input_at_least and whole == "input_token" else 0
            # Together: parts of an older whole mean nothing beside a newer one.
            if said is not None and said >= known:
                for name in (whole, *parts):
                    self.total[name] = getattr(usage, name) or 0

    def counts(self, *, by_pieces: bool, left_early: bool) -> Counts:
        found = dict(self.added)
        # What a provider adds up itself is complete only when it has come to its end.
        incomplete = left_early and not self.own
        if incomplete or (by_pieces and (self.growing or "output_token" not in found)):
            counted = max(self.pieces, found.get("output_token", 0))
            if counted:
                found["output_token"] = counted
        for whole, parts in WITHIN.items():
            if whole in self.total and not (self.growing and found.get(whole, 0) > self.total[whole]):
                found.update({name: self.total[name] for name in (whole, *parts)})
        for name, count in self.used.items():
            found[name] = found.get(name, 0) + count
        return found


def add(counts: Counts, usage: Usage) -> None:
    for name in COUNTS:
        if (value := getattr(usage, name)) is not None:
            counts[name] = counts.get(name, 0) + value
