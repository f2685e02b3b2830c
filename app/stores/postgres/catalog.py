"""The catalog's rows: feature endpoints, packages, profit rules, and the counter that announces their changes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert as pg_insert

from app.domain.catalog import Catalog, FeatureEndpoint, Package, Unpriced
from app.domain.in_force import ProfitRules, RateCards
from app.domain.pricing import ProfitRule
from app.domain.reports import Scope
from app.stores.postgres import prices, system
from app.stores.postgres.scopes import newest_made_for
from app.stores.postgres.tables import (
    feature_endpoints,
    package_features,
    packages,
    profit_rules,
    system_state,
)


def announce_change(connection: sa.Connection) -> None:
    """On commit, tell every process that the catalog has changed. Also serialises changes of the catalog."""
    connection.execute(sa.update(system_state).values(catalog_version=system_state.c.catalog_version + 1))


def announce_change_since(connection: sa.Connection, version: int) -> bool:
    """Announce a change, unless the catalog has changed since this version. False where it has."""
    announced = connection.execute(
        sa.update(system_state)
        .where(system_state.c.catalog_version == version)
        .values(catalog_version=version + 1)
        .returning(system_state.c.catalog_version)
    )
    return announced.one_or_none() is not None


def load(connection: sa.Connection) -> Catalog:
    """The whole catalog, at least as new as the version that it carries."""
    # The version is read first: if a change lands in between, the copy is newer than its version, and the next look
    # loads it again.
    version = system.read(connection).counters.catalog_version
    included: dict[str, list[str]] = {}
    for row in connection.execute(sa.select(package_features).order_by("package_id", "feature_endpoint_id")):
        included.setdefault(row.package_id, []).append(row.feature_endpoint_id)
    return Catalog(
        version=version,
        features={row.id: _feature(row) for row in connection.execute(sa.select(feature_endpoints))},
        packages={
            row.id: Package(row.id, row.name, tuple(included.get(row.id, ())))
            for row in connection.execute(sa.select(packages))
        },
        profit_rules=ProfitRules(all_rules(connection)),
        rate_cards=RateCards(prices.all_cards(connection)),
    )


def _feature(row: Any) -> FeatureEndpoint:
    return FeatureEndpoint(row.id, row.name, row.min_micros, Unpriced(row.unpriced), row.reversal_seconds)


def _rule(row: Any) -> ProfitRule:
    return ProfitRule(
        id=row.id,
        basis_points=row.basis_points,
        effective_from=row.effective_from,
        feature_endpoint_id=row.feature_endpoint_id,
        model=row.model,
    )


def insert_feature(connection: sa.Connection, feature: FeatureEndpoint) -> bool:
    """False where a feature endpoint with this id exists."""
    statement = pg_insert(feature_endpoints).values(asdict(feature)).on_conflict_do_nothing()
    return connection.execute(statement.returning(feature_endpoints.c.id)).one_or_none() is not None


def update_feature(connection: sa.Connection, feature_id: str, changes: Mapping[str, Any]) -> FeatureEndpoint:
    """Change columns of a feature endpoint that exists. Returns it as it is then."""
    statement = sa.update(feature_endpoints).where(feature_endpoints.c.id == feature_id)
    return _feature(connection.execute(statement.values(dict(changes)).returning(feature_endpoints)).one())


def find_feature(connection: sa.Connection, feature_id: str) -> FeatureEndpoint | None:
    row = connection.execute(sa.select(feature_endpoints).where(feature_endpoints.c.id == feature_id)).one_or_none()
    return None if row is None else _feature(row)


def list_features(connection: sa.Connection, after_id: str, limit: int) -> list[FeatureEndpoint]:
    rows = connection.execute(
        sa.select(feature_endpoints)
        .where(feature_endpoints.c.id > after_id)
        .order_by(feature_endpoints.c.id)
        .limit(limit)
    )
    return [_feature(row) for row in rows]


def unknown_features(connection: sa.Connection, feature_ids: Sequence[str]) -> list[str]:
    known = connection.execute(sa.select(feature_endpoints.c.id).where(feature_endpoints.c.id.in_(feature_ids)))
    return sorted(set(feature_ids) - set(known.scalars()))


def insert_package(connection: sa.Connection, package_id: str, name: str) -> bool:
    """False where a package with this id exists."""
    statement = pg_insert(packages).values(id=package_id, name=name).on_conflict_do_nothing()
    return connection.execute(statement.returning(packages.c.id)).one_or_none() is not None


def rename_package(connection: sa.Connection, package_id: str, name: str) -> None:
    connection.execute(sa.update(packages).where(packages.c.id == package_id).values(name=name))


def set_package_features(connection: sa.Connection, package_id: str, feature_ids: Sequence[str]) -> None:
    connection.execute(sa.delete(package_features).where(package_features.c.package_id == package_id))
    if feature_ids:
        connection.execute(
            sa.insert(package_features),
            [{"package_id": package_id, "feature_endpoint_id": feature_id} for feature_id in feature_ids],
        )


def find_package(connection: sa.Connection, package_id: str) -> Package | None:
    found = _packages(connection, packages.c.id == package_id, limit=1)
    return found[0] if found else None


def list_packages(connection: sa.Connection, after_id: str, limit: int) -> list[Package]:
    return _packages(connection, packages.c.id > after_id, limit=limit)


def _packages(connection: sa.Connection, where: sa.ColumnElement[bool], *, limit: int) -> list[Package]:
    included = (
        sa.select(
            sa.func.coalesce(
                sa.func.array_agg(
                    sa.dialects.postgresql.aggregate_order_by(
                        package_features.c.feature_endpoint_id, package_features.c.feature_endpoint_id
                    )
                ),
                sa.cast([], sa.dialects.postgresql.ARRAY(sa.Text)),
            )
        )
        .where(package_features.c.package_id == packages.c.id)
        .scalar_subquery()
    )
    rows = connection.execute(
        sa.select(packages.c.id, packages.c.name, included.label("included"))
        .where(where)
        .order_by(packages.c.id)
        .limit(limit)
    )
    return [Package(row.id, row.name, tuple(row.included)) for row in rows]


def insert_rule(
    connection: sa.Connection,
    *,
    basis_points: int,
    feature_endpoint_id: str | None,
    model: str | None,
    effective_from: datetime | None,
) -> ProfitRule:
    """A new rule, in force from now on, or from `effective_from`."""
    values: dict[str, Any] = {
        "basis_points": basis_points,
        "feature_endpoint_id": feature_endpoint_id,
        "model": model,
    }
    if effective_from is not None:
        values["effective_from"] = effective_from
    return _rule(connection.execute(sa.insert(profit_rules).values(values).returning(profit_rules)).one())


def all_rules(connection: sa.Connection) -> list[ProfitRule]:
    return [_rule(row) for row in connection.execute(sa.select(profit_rules))]


def find_rule(connection: sa.Connection, rule_id: int) -> ProfitRule | None:
    row = connection.execute(sa.select(profit_rules).where(profit_rules.c.id == rule_id)).one_or_none()
    return None if row is None else _rule(row)


def list_rules(connection: sa.Connection, scope: Scope, before_id: int, limit: int) -> list[ProfitRule]:
    """Newest first."""
    return [_rule(row) for row in connection.execute(newest_made_for(profit_rules, scope, before_id, limit))]
