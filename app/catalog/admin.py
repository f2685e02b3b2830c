"""Changing what is sold: feature endpoints, packages and profit rules.

A change is announced in its own transaction, so that every process loads the new catalog within its poll
interval; the process that made it loads it at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, TypeVar

import sqlalchemy as sa
import structlog

from app.access.postgres import PostgresAccess
from app.catalog.snapshot import CatalogSnapshot
from app.domain.catalog import FeatureEndpoint, Package
from app.domain.errors import AlreadyExists, NotFound
from app.domain.pages import FIRST_ID, NEWEST, Page, page
from app.domain.pricing import ProfitRule
from app.stores.postgres import catalog as store

log = structlog.get_logger(__name__)

T = TypeVar("T")


class CatalogAdmin:
    def __init__(self, *, postgres: PostgresAccess, snapshot: CatalogSnapshot) -> None:
        self._postgres = postgres
        self._snapshot = snapshot

    def create_feature(self, feature: FeatureEndpoint) -> FeatureEndpoint:
        """Raises AlreadyExists or Unavailable."""

        def work(connection: sa.Connection) -> FeatureEndpoint:
            if not store.insert_feature(connection, feature):
                raise AlreadyExists("Feature endpoint exists already")
            return feature

        return self._change(work)

    def update_feature(self, feature_id: str, changes: Mapping[str, Any]) -> FeatureEndpoint:
        """Change any of name and min_micros. Raises NotFound or Unavailable."""

        def work(connection: sa.Connection) -> FeatureEndpoint:
            feature = store.update_feature(connection, feature_id, dict(changes))
            if feature is None:
                raise NotFound("Feature endpoint not found")
            return feature

        return self._change(work) if changes else self._postgres.run(work)

    def features(self, limit: int, after_id: str = FIRST_ID) -> Page[FeatureEndpoint, str]:
        """In the order of ids. Raises Unavailable."""
        return self._postgres.run(
            lambda connection: page(
                lambda count: store.list_features(connection, after_id, count),
                lambda feature: feature.id,
                limit,
            )
        )

    def create_package(self, package_id: str, name: str, feature_ids: Sequence[str]) -> Package:
        """Raises AlreadyExists, NotFound (a feature endpoint) or Unavailable."""

        def work(connection: sa.Connection) -> Package:
            _check_features(connection, "feature_endpoint_ids", feature_ids)
            if not store.insert_package(connection, package_id, name):
                raise AlreadyExists("Package exists already")
            store.set_package_features(connection, package_id, sorted(set(feature_ids)))
            return _package(connection, package_id)

        return self._change(work)

    def update_package(
        self, package_id: str, *, name: str | None = None, feature_ids: Sequence[str] | None = None
    ) -> Package:
        """Rename a package, or replace what it includes.

        Raises NotFound (it or a feature endpoint) or Unavailable.
        """

        def work(connection: sa.Connection) -> Package:
            _package(connection, package_id)
            if name is not None:
                store.rename_package(connection, package_id, name)
            if feature_ids is not None:
                _check_features(connection, "feature_endpoint_ids", feature_ids)
                store.set_package_features(connection, package_id, sorted(set(feature_ids)))
            return _package(connection, package_id)

        changes_nothing = name is None and feature_ids is None
        return self._postgres.run(work) if changes_nothing else self._change(work)

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
    ) -> ProfitRule:
        """A new rule, in force from now on unless a moment is given.

        Raises NotFound (the feature endpoint) or Unavailable.
        """

        def work(connection: sa.Connection) -> ProfitRule:
            if feature_endpoint_id is not None:
                _check_features(connection, "feature_endpoint_id", [feature_endpoint_id])
            return store.insert_rule(
                connection,
                basis_points=basis_points,
                feature_endpoint_id=feature_endpoint_id,
                model=model,
                effective_from=effective_from,
            )

        return self._change(work)

    def rules(self, limit: int, before_id: int = NEWEST) -> Page[ProfitRule, int]:
        """Newest first. Raises Unavailable."""
        return self._postgres.run(
            lambda connection: page(
                lambda count: store.list_rules(connection, before_id, count), lambda rule: rule.id, limit
            )
        )

    def _change(self, work: Callable[[sa.Connection], T]) -> T:
        def announced(connection: sa.Connection) -> T:
            store.announce_change(connection)
            return work(connection)

        result = self._postgres.transaction(announced)
        try:
            self._snapshot.refresh()
        except sa.exc.SQLAlchemyError as error:
            # It is committed; this process learns of it with its next look, as the others do.
            log.warning("catalog_refresh_postponed", error=type(error).__name__)
        return result


def _package(connection: sa.Connection, package_id: str) -> Package:
    package = store.find_package(connection, package_id)
    if package is None:
        raise NotFound("Package not found")
    return package


def _check_features(connection: sa.Connection, field: str, feature_ids: Sequence[str]) -> None:
    unknown = store.unknown_features(connection, feature_ids)
    if unknown:
        names = ", ".join(unknown)
        raise NotFound(f"Feature endpoint not found: {names}", errors={field: [f"Unknown feature endpoint: {names}"]})
