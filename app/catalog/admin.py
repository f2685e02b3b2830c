"""Changing what is sold: feature endpoints, packages and profit rules."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Protocol

from app.access.ports import BookKeeping
from app.catalog.changes import Announcing, CatalogChanges
from app.domain.audit import Change, differing, omitting_id
from app.domain.catalog import FeatureEndpoint, Package
from app.domain.errors import AlreadyExists, Invalid, NotFound
from app.domain.in_force import RateCards
from app.domain.keys import SYSTEM, Caller
from app.domain.pages import FIRST_ID, NEWEST, Page, page
from app.domain.price_limits import errors_of_rule
from app.domain.pricing import ProfitRule
from app.domain.rates import RateCard
from app.domain.reports import Scope


class Features(Protocol):
    def unknown_features(self, feature_ids: Sequence[str]) -> Sequence[str]:
        """The ids that no feature endpoint has."""


class Books(Features, Announcing, Protocol):
    """Feature endpoints, packages and profit rules, in one transaction."""

    def add_feature(self, feature: FeatureEndpoint) -> bool: ...

    def find_feature(self, feature_id: str) -> FeatureEndpoint | None: ...

    def update_feature(self, feature_id: str, changes: Mapping[str, Any]) -> FeatureEndpoint: ...

    def list_features(self, after_id: str, limit: int) -> Sequence[FeatureEndpoint]: ...

    def add_package(self, package_id: str, name: str) -> bool: ...

    def find_package(self, package_id: str) -> Package | None: ...

    def rename_package(self, package_id: str, name: str) -> None: ...

    def set_package_features(self, package_id: str, feature_ids: Sequence[str]) -> None: ...

    def list_packages(self, after_id: str, limit: int) -> Sequence[Package]: ...

    def add_rule(
        self,
        basis_points: int,
        *,
        feature_endpoint_id: str | None,
        model: str | None,
        effective_from: datetime | None,
    ) -> ProfitRule: ...

    def list_rules(self, scope: Scope, before_id: int, limit: int) -> Sequence[ProfitRule]: ...

    def cards(self) -> Sequence[RateCard]: ...

    def audit(self, caller: Caller, changes: Sequence[Change]) -> None: ...


class CatalogAdmin:
    def __init__(
        self, *, books: BookKeeping[Books], changes: CatalogChanges[Books], now: Callable[[], datetime]
    ) -> None:
        self._books = books
        self._changes = changes
        self._now = now

    def create_feature(self, feature: FeatureEndpoint, caller: Caller = SYSTEM) -> FeatureEndpoint:
        """Raises AlreadyExists or Unavailable."""

        def work(books: Books) -> FeatureEndpoint:
            if not books.add_feature(feature):
                raise AlreadyExists("Feature endpoint exists already")
            after = omitting_id(feature)
            books.audit(caller, [Change("feature_endpoint.created", "feature_endpoint", feature.id, after=after)])
            return feature

        return self._changes.make(work)

    def update_feature(self, feature_id: str, changes: Mapping[str, Any], caller: Caller = SYSTEM) -> FeatureEndpoint:
        """Change any of name, min_micros, unpriced and reversal_seconds. Raises NotFound or Unavailable."""

        def work(books: Books) -> FeatureEndpoint:
            old = _feature(books, feature_id)
            feature = books.update_feature(feature_id, changes)
            before, after = differing(omitting_id(old), omitting_id(feature))
            if after:
                changed = Change("feature_endpoint.updated", "feature_endpoint", feature_id, before, after)
                books.audit(caller, [changed])
            return feature

        if not changes:
            return self._books.read(lambda books: _feature(books, feature_id))
        return self._changes.make(work)

    def features(self, limit: int, after_id: str = FIRST_ID) -> Page[FeatureEndpoint, str]:
        """In the order of ids. Raises Unavailable."""
        return self._books.read(
            lambda books: page(lambda count: books.list_features(after_id, count), lambda feature: feature.id, limit)
        )

    def create_package(
        self, package_id: str, name: str, feature_ids: Sequence[str], caller: Caller = SYSTEM
    ) -> Package:
        """Raises AlreadyExists, NotFound (a feature endpoint) or Unavailable."""

        def work(books: Books) -> Package:
            check_features(books, "feature_endpoint_ids", feature_ids)
            if not books.add_package(package_id, name):
                raise AlreadyExists("Package exists already")
            books.set_package_features(package_id, sorted(set(feature_ids)))
            made = _package(books, package_id)
            books.audit(caller, [Change("package.created", "package", package_id, after=omitting_id(made))])
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

        def work(books: Books) -> Package:
            old = _package(books, package_id)
            if name is not None:
                books.rename_package(package_id, name)
            if feature_ids is not None:
                check_features(books, "feature_endpoint_ids", feature_ids)
                books.set_package_features(package_id, sorted(set(feature_ids)))
            changed = _package(books, package_id)
            before, after = differing(omitting_id(old), omitting_id(changed))
            if after:
                books.audit(caller, [Change("package.updated", "package", package_id, before, after)])
            return changed

        if name is None and feature_ids is None:
            return self._books.read(lambda books: _package(books, package_id))
        return self._changes.make(work)

    def packages(self, limit: int, after_id: str = FIRST_ID) -> Page[Package, str]:
        """In the order of ids. Raises Unavailable."""
        return self._books.read(
            lambda books: page(lambda count: books.list_packages(after_id, count), lambda package: package.id, limit)
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

        def work(books: Books) -> ProfitRule:
            if feature_endpoint_id is not None:
                check_features(books, "feature_endpoint_id", [feature_endpoint_id])
            now = self._now()
            rule = ProfitRule(0, basis_points, effective_from or now, feature_endpoint_id, model)
            cards = RateCards(books.cards()).not_yet_followed(now)
            if errors := errors_of_rule(rule, cards):
                raise Invalid(errors=errors)
            made = books.add_rule(
                basis_points, feature_endpoint_id=feature_endpoint_id, model=model, effective_from=effective_from
            )
            changed = Change("profit_rule.created", "profit_rule", str(made.id), after=omitting_id(made))
            books.audit(caller, [changed])
            return made

        return self._changes.make(work)

    def rules(self, scope: Scope, limit: int, before_id: int = NEWEST) -> Page[ProfitRule, int]:
        """Newest first. Raises Unavailable."""
        return self._books.read(
            lambda books: page(lambda count: books.list_rules(scope, before_id, count), lambda rule: rule.id, limit)
        )


def check_features(books: Features, field: str, feature_ids: Sequence[str]) -> None:
    """Raises NotFound, with the reasons under the wire's name of the field."""
    unknown = books.unknown_features(feature_ids)
    if unknown:
        names = ", ".join(unknown)
        raise NotFound(f"Feature endpoint not found: {names}", errors={field: [f"Unknown feature endpoint: {names}"]})


def _feature(books: Books, feature_id: str) -> FeatureEndpoint:
    feature = books.find_feature(feature_id)
    if feature is None:
        raise NotFound("Feature endpoint not found")
    return feature


def _package(books: Books, package_id: str) -> Package:
    package = books.find_package(package_id)
    if package is None:
        raise NotFound("Package not found")
    return package
