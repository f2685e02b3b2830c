"""What is sold and to whom: feature endpoints, packages and profit rules, as one immutable snapshot."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property

from app.domain.pricing import ProfitRule, rule_in_force


@dataclass(frozen=True, slots=True)
class FeatureEndpoint:
    id: str
    name: str
    min_micros: int


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
    rules: tuple[ProfitRule, ...] = ()

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

    def rule_for(self, feature_endpoint_id: str, model: str | None, at: datetime) -> ProfitRule | None:
        return rule_in_force(self.rules, feature_endpoint_id, model, at)
