"""The books of the catalog in memory, with imports of price lists and what the ledger's runs have used."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from datetime import datetime
from typing import Any, TypeVar

import sqlalchemy as sa

from app.catalog.changes import CatalogChanges
from app.domain.catalog import Catalog, FeatureEndpoint, Package
from app.domain.errors import Unavailable
from app.domain.in_force import ProfitRules, RateCards
from app.domain.pages import NEWEST
from app.domain.pricing import ProfitRule
from app.domain.rates import RateCard, Rates
from app.domain.reports import Scope
from app.stores.postgres.price_imports import PriceImport, PriceImportHead, UsageSum
from app.stores.postgres.system import Counters, SystemState
from tests.unit.fake_bookkeeping import FakeBookKeeping
from tests.unit.fakes import NOW

T = TypeVar("T")


class FakeCatalogBooks(FakeBookKeeping):
    """Features, packages, profit rules, prices and imports."""

    LASTING = FakeBookKeeping.LASTING | {"meanwhile"}

    def __init__(self) -> None:
        super().__init__()
        self.features: dict[str, FeatureEndpoint] = {}
        self.packages: dict[str, Package] = {}
        self.made_rules: list[ProfitRule] = []
        self.made_cards: list[RateCard] = []
        self.imports: dict[int, PriceImport] = {}
        self.version = 1
        self.now = NOW
        self.is_away = False
        # What somebody else does to the catalog, once each time that a transaction has looked at it.
        self.meanwhile: list[Callable[[], None]] = []

    def read(self, work: Callable[[Any], T]) -> T:
        if self.is_away:
            raise Unavailable
        return super().read(work)

    def transaction(self, work: Callable[[Any], T]) -> T:
        if self.is_away:
            raise Unavailable
        return super().transaction(work)

    def announce(self) -> None:
        self.version += 1
        self.steps.append("announced")

    def add_feature(self, feature: FeatureEndpoint) -> bool:
        return self.features.setdefault(feature.id, feature) is feature

    def find_feature(self, feature_id: str) -> FeatureEndpoint | None:
        return self.features.get(feature_id)

    def update_feature(self, feature_id: str, changes: Mapping[str, Any]) -> FeatureEndpoint:
        self.features[feature_id] = replace(self.features[feature_id], **changes)
        return self.features[feature_id]

    def list_features(self, after_id: str, limit: int) -> Sequence[FeatureEndpoint]:
        return [self.features[each] for each in sorted(self.features) if each > after_id][:limit]

    def unknown_features(self, feature_ids: Sequence[str]) -> Sequence[str]:
        return sorted(set(feature_ids) - set(self.features))

    def add_package(self, package_id: str, name: str) -> bool:
        made = Package(package_id, name, ())
        return self.packages.setdefault(package_id, made) is made

    def find_package(self, package_id: str) -> Package | None:
        return self.packages.get(package_id)

    def rename_package(self, package_id: str, name: str) -> None:
        self.packages[package_id] = replace(self.packages[package_id], name=name)

    def set_package_features(self, package_id: str, feature_ids: Sequence[str]) -> None:
        assert len(set(feature_ids)) == len(feature_ids), "a key of the table"
        included = tuple(sorted(feature_ids))
        self.packages[package_id] = replace(self.packages[package_id], feature_endpoint_ids=included)

    def list_packages(self, after_id: str, limit: int) -> Sequence[Package]:
        return [self.packages[each] for each in sorted(self.packages) if each > after_id][:limit]

    def add_rule(
        self, basis_points: int, *, feature_endpoint_id: str | None, model: str | None, effective_from: datetime | None
    ) -> ProfitRule:
        number = len(self.made_rules) + 1
        rule = ProfitRule(number, basis_points, effective_from or self.now, feature_endpoint_id, model)
        self.made_rules.append(rule)
        return rule

    def rules(self) -> Sequence[ProfitRule]:
        return list(self.made_rules)

    def list_rules(self, scope: Scope, before_id: int, limit: int) -> Sequence[ProfitRule]:
        return _newest(self.made_rules, scope, before_id, limit)

    def add_card(
        self, rates: Rates, *, feature_endpoint_id: str | None, model: str | None, effective_from: datetime | None
    ) -> RateCard | None:
        number = len(self.made_cards) + 1
        card = RateCard(number, rates, feature_endpoint_id, model, effective_from or self.now)
        if any(_same(card) == _same(other) for other in self.made_cards):
            return None
        self.made_cards.append(card)
        return card

    def cards(self) -> Sequence[RateCard]:
        return list(self.made_cards)

    def list_cards(self, scope: Scope, before_id: int, limit: int) -> Sequence[RateCard]:
        return _newest(self.made_cards, scope, before_id, limit)

    def take_seconds(self, seconds: float) -> None:
        self.steps.append("took time")

    def catalog(self) -> Catalog:
        rules, cards = ProfitRules(self.made_rules), RateCards(self.made_cards)
        return Catalog(self.version, dict(self.features), dict(self.packages), rules, cards)

    def state(self) -> SystemState:
        return SystemState(Counters(catalog_version=self.version), self.now)

    def announce_since(self, version: int) -> bool:
        if self.meanwhile:
            self.meanwhile.pop(0)()
        if self.version != version:
            return False
        self.announce()
        return True

    def draft(self, **values: Any) -> PriceImport:
        number = len(self.imports) + 1
        new = {"id": number, "state": "draft", "created_at": NOW}
        columns = dict.fromkeys((field.name for field in fields(PriceImport)), None)
        self.imports[number] = PriceImport(**{**columns, **values, **new})
        return self.imports[number]

    def find_import(self, import_id: int) -> PriceImport | None:
        return self.imports.get(import_id)

    def lock_import(self, import_id: int) -> PriceImport | None:
        self.steps.append("locked")
        return self.imports.get(import_id)

    def list_imports(self, before_id: int, limit: int) -> Sequence[PriceImportHead]:
        return [self.imports[number] for number in sorted(self.imports, reverse=True) if number < before_id][:limit]

    def add_cards(
        self, listed: Sequence[tuple[str, Rates]], *, feature_endpoint_id: str | None, effective_from: datetime
    ) -> Sequence[int]:
        made = [
            self.add_card(rates, feature_endpoint_id=feature_endpoint_id, model=model, effective_from=effective_from)
            for model, rates in listed
        ]
        assert None not in made, "a key of the table"
        self.steps.append("added cards")
        return [card.id for card in made if card is not None]

    def mark_approved(self, import_id: int, *, approved_by: str, price_ids: Sequence[int]) -> PriceImport:
        values: dict[str, Any] = {"approved_by": approved_by, "approved_at": self.now, "price_ids": list(price_ids)}
        self.imports[import_id] = replace(self.imports[import_id], state="approved", **values)
        return self.imports[import_id]


class FakeCopy:
    """This process's copy of the catalog: what it has seen is what was committed by then."""

    def __init__(self, books: FakeCatalogBooks) -> None:
        self._books = books
        self.fails = False

    def refresh(self) -> None:
        if self.fails:
            raise sa.exc.OperationalError("SELECT", {}, Exception("gone"))
        self._books.steps.append("shown")


def changes_of(books: FakeCatalogBooks, copy: FakeCopy | None = None) -> CatalogChanges[FakeCatalogBooks]:
    return CatalogChanges(books=books, copy=copy or FakeCopy(books))


class FakePastUsage:
    """`used` are single runs, each an entry of the ledger with the number of its place."""

    def __init__(self, *used: UsageSum) -> None:
        self.used = list(used)
        self.asked: list[tuple[int, int]] = []
        self.since: list[datetime] = []

    def entries_since(self, since: datetime) -> tuple[int, int]:
        self.since.append(since)
        return (1, len(self.used))

    def sums(
        self, first_id: int, last_id: int, *, since: datetime, lengths: Sequence[int], models: Sequence[str]
    ) -> Sequence[UsageSum]:
        self.asked.append((first_id, last_id))
        self.since.append(since)
        return self.used[first_id - 1 : last_id]


def _same(card: RateCard) -> tuple[str | None, str | None, datetime]:
    return card.feature_endpoint_id, card.model, card.effective_from


def _newest(made: Sequence[Any], scope: Scope, before_id: int = NEWEST, limit: int = 0) -> list[Any]:
    found = [
        each
        for each in reversed(made)
        if each.id < before_id
        and scope.feature_endpoint_id in (None, each.feature_endpoint_id)
        and scope.model in (None, each.model)
    ]
    return found[:limit]
