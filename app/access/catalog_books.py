"""Books for the catalog: feature endpoints, packages, profit rules and prices, within one transaction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from app.domain.audit import Change
from app.domain.catalog import Catalog, FeatureEndpoint, Package
from app.domain.keys import Caller
from app.domain.pricing import ProfitRule
from app.domain.rates import RateCard, Rates
from app.domain.reports import Scope
from app.stores.postgres import audit, catalog, price_imports, prices, system
from app.stores.postgres.engine import allow_seconds
from app.stores.postgres.price_imports import PriceImport, PriceImportHead
from app.stores.postgres.system import SystemState


class CatalogBooks:
    def __init__(self, connection: sa.Connection) -> None:
        self._connection = connection

    def announce(self) -> None:
        """On commit, tell every process that the catalog has changed. Also serialises changes of the catalog."""
        catalog.announce_change(self._connection)

    def audit(self, caller: Caller, changes: Sequence[Change]) -> None:
        """Write this transaction's changes to the audit log."""
        audit.write_all(self._connection, caller, changes)

    def add_feature(self, feature: FeatureEndpoint) -> bool:
        """False where a feature endpoint with this id exists."""
        return catalog.insert_feature(self._connection, feature)

    def find_feature(self, feature_id: str) -> FeatureEndpoint | None:
        return catalog.find_feature(self._connection, feature_id)

    def update_feature(self, feature_id: str, changes: Mapping[str, Any]) -> FeatureEndpoint:
        """Change a feature endpoint that exists."""
        return catalog.update_feature(self._connection, feature_id, changes)

    def list_features(self, after_id: str, limit: int) -> Sequence[FeatureEndpoint]:
        return catalog.list_features(self._connection, after_id, limit)

    def unknown_features(self, feature_ids: Sequence[str]) -> Sequence[str]:
        """Those of these ids that no feature endpoint has, sorted."""
        return catalog.unknown_features(self._connection, feature_ids)

    def add_package(self, package_id: str, name: str) -> bool:
        """Add an empty package. False where a package with this id exists."""
        return catalog.insert_package(self._connection, package_id, name)

    def find_package(self, package_id: str) -> Package | None:
        return catalog.find_package(self._connection, package_id)

    def rename_package(self, package_id: str, name: str) -> None:
        catalog.rename_package(self._connection, package_id, name)

    def set_package_features(self, package_id: str, feature_ids: Sequence[str]) -> None:
        """Have a package include exactly these feature endpoints."""
        catalog.set_package_features(self._connection, package_id, feature_ids)

    def list_packages(self, after_id: str, limit: int) -> Sequence[Package]:
        return catalog.list_packages(self._connection, after_id, limit)

    def add_rule(
        self,
        basis_points: int,
        *,
        feature_endpoint_id: str | None,
        model: str | None,
        effective_from: datetime | None,
    ) -> ProfitRule:
        """A rule that is in force from now on, or from `effective_from`."""
        return catalog.insert_rule(
            self._connection,
            basis_points=basis_points,
            feature_endpoint_id=feature_endpoint_id,
            model=model,
            effective_from=effective_from,
        )

    def rules(self) -> Sequence[ProfitRule]:
        """All rules that were ever made."""
        return catalog.all_rules(self._connection)

    def list_rules(self, scope: Scope, before_id: int, limit: int) -> Sequence[ProfitRule]:
        return catalog.list_rules(self._connection, scope, before_id, limit)

    def add_card(
        self,
        rates: Rates,
        *,
        feature_endpoint_id: str | None,
        model: str | None,
        effective_from: datetime | None,
    ) -> RateCard | None:
        """A rate card that is in force from now on, or from `effective_from`. None where there is one for the same
        scope and moment.
        """
        return prices.insert(
            self._connection,
            rates,
            feature_endpoint_id=feature_endpoint_id,
            model=model,
            effective_from=effective_from,
        )

    def cards(self) -> Sequence[RateCard]:
        """All rate cards that were ever made."""
        return prices.all_cards(self._connection)

    def list_cards(self, scope: Scope, before_id: int, limit: int) -> Sequence[RateCard]:
        return prices.list_cards(self._connection, scope, before_id, limit)


class PriceImportBooks(CatalogBooks):
    """The catalog's books, and imports of price lists."""

    def take_seconds(self, seconds: float) -> None:
        """Allow statements this many seconds: thousands of prices take longer to write than a request's
        statements may.
        """
        allow_seconds(self._connection, seconds)

    def catalog(self) -> Catalog:
        """The whole catalog, as of now."""
        return catalog.load(self._connection)

    def state(self) -> SystemState:
        """The catalog's version, and the time by Postgres's clock."""
        return system.read(self._connection)

    def announce_since(self, version: int) -> bool:
        """Announce a change, unless the catalog has changed since this version. False where it has."""
        return catalog.announce_change_since(self._connection, version)

    def draft(self, **values: Any) -> PriceImport:
        return price_imports.insert(self._connection, **values)

    def find_import(self, import_id: int) -> PriceImport | None:
        return price_imports.find(self._connection, import_id)

    def lock_import(self, import_id: int) -> PriceImport | None:
        """Lock an import until this transaction ends, so that nobody else approves it meanwhile."""
        return price_imports.find(self._connection, import_id, for_update=True)

    def list_imports(self, before_id: int, limit: int) -> Sequence[PriceImportHead]:
        return price_imports.list_imports(self._connection, before_id, limit)

    def add_cards(
        self, listed: Sequence[tuple[str, Rates]], *, feature_endpoint_id: str | None, effective_from: datetime
    ) -> Sequence[int]:
        """Add cards for many models, in force from one moment on. Returns their ids. Fails where there is one for the
        same scope and moment.
        """
        return prices.insert_all(
            self._connection, listed, feature_endpoint_id=feature_endpoint_id, effective_from=effective_from
        )

    def mark_approved(self, import_id: int, *, approved_by: str, price_ids: Sequence[int]) -> PriceImport:
        return price_imports.mark_approved(self._connection, import_id, approved_by=approved_by, price_ids=price_ids)
