"""Changing what is sold: feature endpoints, packages and profit rules."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from app.access.postgres import PostgresAccess
from app.catalog.changes import CatalogChanges
from app.domain.audit import differing, omitting_id
from app.domain.catalog import FeatureEndpoint, Package
from app.domain.errors import AlreadyExists, Invalid, NotFound
from app.domain.in_force import RateCards
from app.domain.keys import SYSTEM, Caller
from app.domain.pages import FIRST_ID, NEWEST, Page, page
from app.domain.price_limits import errors_of_rule
from app.domain.pricing import ProfitRule
from app.domain.reports import Scope
from app.stores.postgres import audit, prices
from app.stores.postgres import catalog as store


class CatalogAdmin:
    def __init__(self, *, postgres: PostgresAccess, changes: CatalogChanges, now: Callable[[], datetime]) -> None:
        self._postgres = postgres
        self._changes = changes
        self._now = now

    def create_feature(self, feature: FeatureEndpoint, caller: Caller = SYSTEM) -> FeatureEndpoint:
        """Raises AlreadyExists or Unavailable."""

        def work(connection: sa.Connection) -> FeatureEndpoint:
            if not store.insert_feature(connection, feature):
                raise AlreadyExists("Feature endpoint exists already")
            subject = ("feature_endpoint", feature.id)
            audit.write(connection, caller, "feature_endpoint.created", subject, after=omitting_id(feature))
            return feature

        return self._changes.make(work)

    def update_feature(self, feature_id: str, changes: Mapping[str, Any], caller: Caller = SYSTEM) -> FeatureEndpoint:
        """Change any of name, min_micros, unpriced and reversal_seconds. Raises NotFound or Unavailable."""

        def work(connection: sa.Connection) -> FeatureEndpoint:
            old = store.find_feature(connection, feature_id)
            feature = store.update_feature(connection, feature_id, dict(changes))
            if old is None or feature is None:
                raise NotFound("Feature endpoint not found")
            before, after = differing(omitting_id(old), omitting_id(feature))
            if after:
                subject = ("feature_endpoint", feature_id)
                audit.write(connection, caller, "feature_endpoint.updated", subject, before=before, after=after)
            return feature

        return self._changes.make(work) if changes else self._postgres.run(work)

    def features(self, limit: int, after_id: str = FIRST_ID) -> Page[FeatureEndpoint, str]:
        """In the order of ids. Raises Unavailable."""
        return self._postgres.run(
            lambda connection: page(
                lambda count: store.list_features(connection, after_id, count),
                lambda feature: feature.id,
                limit,
            )
        )

    def create_package(
        self, package_id: str, name: str, feature_ids: Sequence[str], caller: Caller = SYSTEM
    ) -> Package:
        """Raises AlreadyExists, NotFound (a feature endpoint) or Unavailable."""

        def work(connection: sa.Connection) -> Package:
            check_features(connection, "feature_endpoint_ids", feature_ids)
            if not store.insert_package(connection, package_id, name):
                raise AlreadyExists("Package exists already")
            store.set_package_features(connection, package_id, sorted(set(feature_ids)))
            made = _package(connection, package_id)
            audit.write(connection, caller, "package.created", ("package", package_id), after=omitting_id(made))
            return made

        return self._changes.make(work)

    def update_package(
        self,
        package_id: str,
        *,
        name: str | None = None,
        feature_ids: Sequence[str] | None = None,
        caller: Caller = SYSTEM,
    ) -> Package:
        """Rename a package, or replace what it includes.

        Raises NotFound (it or a feature endpoint) or Unavailable.
        """

        def work(connection: sa.Connection) -> Package:
            old = _package(connection, package_id)
            if name is not None:
                store.rename_package(connection, package_id, name)
            if feature_ids is not None:
                check_features(connection, "feature_endpoint_ids", feature_ids)
                store.set_package_features(connection, package_id, sorted(set(feature_ids)))
            changed = _package(connection, package_id)
            before, after = differing(omitting_id(old), omitting_id(changed))
            if after:
                subject = ("package", package_id)
                audit.write(connection, caller, "package.updated", subject, before=before, after=after)
            return changed

        changes_nothing = name is None and feature_ids is None
        return self._postgres.run(work) if changes_nothing else self._changes.make(work)

    def packages(self, limit: int, after_id: str = FIRST_ID) -> Page[Package, str]:
        """In the order of ids. Raises Unavailable."""
        return self._postgres.run(
            lambda connection: page(
                lambda count: store.list_packages(connection, after_id, count),
                lambda package: package.id,
                limit,
            )
        )

    def create_rule(
        self,
        basis_points: int,
        *,
        feature_endpoint_id: str | None = None,
        model: str | None = None,
        effective_from: datetime | None = None,
        caller: Caller = SYSTEM,
    ) -> ProfitRule:
        """A new rule, in force from now on unless a moment is given.

        Raises NotFound (the feature endpoint), Invalid (a run could cost more than can be counted) or Unavailable.
        """

        def work(connection: sa.Connection) -> ProfitRule:
            if feature_endpoint_id is not None:
                check_features(connection, "feature_endpoint_id", [feature_endpoint_id])
            now = self._now()
            rule = ProfitRule(0, basis_points, effective_from or now, feature_endpoint_id, model)
            cards = RateCards(prices.all_cards(connection)).not_yet_followed(now)
            if errors := errors_of_rule(rule, cards):
                raise Invalid(errors=errors)
            made = store.insert_rule(
                connection,
                basis_points=basis_points,
                feature_endpoint_id=feature_endpoint_id,
                model=model,
                effective_from=effective_from,
            )
            subject = ("profit_rule", made.id)
            audit.write(connection, caller, "profit_rule.created", subject, after=omitting_id(made))
            return made

        return self._changes.make(work)

    def rules(self, scope: Scope, limit: int, before_id: int = NEWEST) -> Page[ProfitRule, int]:
        """Newest first. Raises Unavailable."""
        return self._postgres.run(
            lambda connection: page(
                lambda count: store.list_rules(connection, scope, before_id, count), lambda rule: rule.id, limit
            )
        )


def _package(connection: sa.Connection, package_id: str) -> Package:
    package = store.find_package(connection, package_id)
    if package is None:
        raise NotFound("Package not found")
    return package


def check_features(connection: sa.Connection, field: str, feature_ids: Sequence[str]) -> None:
    """Raises NotFound, which names the wire's field."""
    unknown = store.unknown_features(connection, feature_ids)
    if unknown:
        names = ", ".join(unknown)
        raise NotFound(f"Feature endpoint not found: {names}", errors={field: [f"Unknown feature endpoint: {names}"]})
