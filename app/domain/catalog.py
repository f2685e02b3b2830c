"""The catalog of what is sold and for how much: one immutable snapshot, with indexes for looking up prices."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from functools import cached_property

from app.domain.in_force import ProfitRules, RateCards


class Unpriced(StrEnum):
    """How a feature endpoint treats a model that no price covers."""

    DEFAULT = "default"
    """The run is billed by the default rule."""
    REFUSE = "refuse"
    """No run starts with such a model. A run that has ended all the same is billed by the default rule."""


@dataclass(frozen=True, slots=True)
class FeatureEndpoint:
    id: str
    name: str
    min_micros: int
    unpriced: Unpriced = Unpriced.DEFAULT
    reversal_seconds: int = 0
    """For how long after an end a service server may reverse its own run."""


@dataclass(frozen=True, slots=True)
class Package:
    id: str
    name: str
    feature_endpoint_ids: tuple[str, ...]


@dataclass(frozen=True)
class Catalog:
    version: int
    features: Mapping[str, FeatureEndpoint] = field(default_factory=dict)
    packages: Mapping[str, Package] = field(default_factory=dict)
    profit_rules: ProfitRules = field(default_factory=lambda: ProfitRules(()))
    rate_cards: RateCards = field(default_factory=lambda: RateCards(()))

    @cached_property
    def _packages_of_feature(self) -> Mapping[str, tuple[str, ...]]:
        packages: dict[str, list[str]] = {}
        for package in self.packages.values():
            for feature_id in package.feature_endpoint_ids:
                packages.setdefault(feature_id, []).append(package.id)
        return {feature_id: tuple(ids) for feature_id, ids in packages.items()}

    def packages_with(self, feature_endpoint_id: str) -> tuple[str, ...]:
        """Ids of the packages that include a feature endpoint."""
        return self._packages_of_feature.get(feature_endpoint_id, ())

    def refuses(self, feature_endpoint_id: str, model: str | None, at: datetime) -> bool:
        """Whether a run may not start because no price covers its model."""
        feature = self.features.get(feature_endpoint_id)
        if model is None or feature is None or feature.unpriced is not Unpriced.REFUSE:
            return False
        return self.rate_cards.in_force(feature_endpoint_id, model, at) is None
