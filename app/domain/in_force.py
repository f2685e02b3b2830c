"""Finds the profit rule or rate card in force for a run, by feature endpoint and model.

The index is built once from all of them, so that a lookup costs the same for ten as for ten thousand.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Generic, Protocol, TypeVar

from app.domain.pricing import ProfitRule
from app.domain.rates import RateCard


class Dated(Protocol):
    """Something made for a scope (feature endpoint, model, both or neither) and in force from a moment until the next
    one of its scope.
    """

    @property
    def id(self) -> int: ...
    @property
    def feature_endpoint_id(self) -> str | None: ...
    @property
    def model(self) -> str | None: ...
    @property
    def effective_from(self) -> datetime: ...


D = TypeVar("D", bound=Dated)


class _ByScope(Generic[D]):
    """The items of each scope, ordered by `effective_from`, then by id."""

    def __init__(self, items: Iterable[D]) -> None:
        by_scope: dict[tuple[str | None, str | None], list[D]] = defaultdict(list)
        for item in sorted(items, key=lambda item: (item.effective_from, item.id)):
            by_scope[item.feature_endpoint_id, item.model].append(item)
        self._lines = {scope: ([item.effective_from for item in line], line) for scope, line in by_scope.items()}

    def __iter__(self) -> Iterator[D]:
        return (item for _, line in self._lines.values() for item in line)

    def latest(self, feature_endpoint_id: str | None, model: str | None, at: datetime) -> D | None:
        """The item in force for exactly this scope."""
        found = self._lines.get((feature_endpoint_id, model))
        if found is None:
            return None
        moments, line = found
        place = bisect_right(moments, at)
        return line[place - 1] if place else None

    def of_feature(self, feature_endpoint_id: str | None, at: datetime) -> Iterator[D]:
        """The items in force for each scope of a feature endpoint, or for the scopes without one (None)."""
        for feature, model in self._lines:
            if feature == feature_endpoint_id and (found := self.latest(feature, model, at)):
                yield found

    def not_yet_followed(self, at: datetime) -> Iterator[D]:
        """The items in force at `at`, and those of later moments: all that runs may still be priced by."""
        for moments, line in self._lines.values():
            yield from line[max(bisect_right(moments, at) - 1, 0) :]


class ProfitRules(_ByScope[ProfitRule]):
    """The most specific rule wins: feature and model, feature, model, default. Within a scope the latest wins, then the
    last one made.
    """

    def in_force(self, feature_endpoint_id: str, model: str | None, at: datetime) -> ProfitRule | None:
        """The rule in force for a run; None where there is none: the run is sold at its base cost."""
        if model is not None and (found := self.latest(feature_endpoint_id, model, at)):
            return found
        if found := self.latest(feature_endpoint_id, None, at):
            return found
        if model is not None and (found := self.latest(None, model, at)):
            return found
        return self.latest(None, None, at)


class RateCards(_ByScope[RateCard]):
    """The most specific card wins: feature and exact model, feature and longest pattern, exact model, longest pattern,
    feature, none. Within a scope the latest wins, then the last one made.
    """

    def __init__(self, cards: Iterable[RateCard]) -> None:
        super().__init__(cards)
        lengths: dict[str | None, set[int]] = defaultdict(set)
        for card in self:
            if card.is_pattern and card.model is not None:
                lengths[card.feature_endpoint_id].add(len(card.model) - 1)
        # By feature (None: all features), the lengths of its patterns without their star, longest first.
        self._lengths = {feature: tuple(sorted(found, reverse=True)) for feature, found in lengths.items()}

    def in_force(self, feature_endpoint_id: str | None, model: str | None, at: datetime) -> RateCard | None:
        """The card in force for a run; None where no price covers it. With no feature, the card for features without a
        price of their own.
        """
        if model is not None:
            for feature in (feature_endpoint_id, None):
                if found := self._of_model(feature, model, at):
                    return found
        return self.latest(feature_endpoint_id, None, at) or self.latest(None, None, at)

    def _of_model(self, feature_endpoint_id: str | None, model: str, at: datetime) -> RateCard | None:
        # A model id that ends in a star is matched by patterns only.
        if not model.endswith("*") and (found := self.latest(feature_endpoint_id, model, at)):
            return found
        for length in self._lengths.get(feature_endpoint_id, ()):
            if length <= len(model) and (found := self.latest(feature_endpoint_id, f"{model[:length]}*", at)):
                return found
        return None
