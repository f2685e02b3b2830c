"""Importing a price list: a dry run that is kept as a draft, and its approval, which makes a dated version of prices.

A draft is compared with the prices that will be in force when it takes effect. Its approval is for that comparison: if
any of those prices has changed since, the draft is outdated. Approving again gives the same answer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any, Protocol, TypeVar

from app.access.ports import BookKeeping
from app.catalog.admin import Features, check_features
from app.catalog.changes import Showing
from app.catalog.price_lists import Format, PriceList, Selection, read_price_list
from app.catalog.usage_impact import Effect, Impact, PastUsage, usage_impact
from app.domain.audit import Change
from app.domain.catalog import Catalog
from app.domain.errors import (
    AlreadyExists,
    Invalid,
    NotFound,
    PriceImportOutdated,
    PriceListRefused,
    PricesJump,
    Unavailable,
)
from app.domain.in_force import ProfitRules, RateCards
from app.domain.keys import SYSTEM, Caller
from app.domain.moments import moment_text
from app.domain.pages import NEWEST, Page, page
from app.domain.price_changes import Difference, PriceChange, difference
from app.domain.price_limits import errors_of_card, exceeds_limit
from app.domain.pricing import ProfitRule
from app.domain.rates import RateCard, Rates
from app.stores.postgres.price_imports import PriceImport, PriceImportHead, stored_rates
from app.stores.postgres.system import SystemState

USAGE_DAYS = 30
# How many models and users a report lists, those with the largest change; its totals count all.
EFFECTS_MAX = 200
NAMED_MAX = 20
ATTEMPTS = 3
SECONDS_MAX = 60

Key = TypeVar("Key")


class Books(Features, Protocol):
    """Price imports and the catalog that they change, in one transaction."""

    def take_seconds(self, seconds: float) -> None:
        """Raise this transaction's statement timeout: writing thousands of prices takes longer than the usual one."""

    def catalog(self) -> Catalog: ...

    def state(self) -> SystemState: ...

    def rules(self) -> Sequence[ProfitRule]: ...

    def cards(self) -> Sequence[RateCard]: ...

    def add_cards(
        self, listed: Sequence[tuple[str, Rates]], *, feature_endpoint_id: str | None, effective_from: datetime
    ) -> Sequence[int]: ...

    def draft(self, **values: Any) -> PriceImport: ...

    def find_import(self, import_id: int) -> PriceImport | None: ...

    def lock_import(self, import_id: int) -> PriceImport | None: ...

    def list_imports(self, before_id: int, limit: int) -> Sequence[PriceImportHead]: ...

    def mark_approved(self, import_id: int, *, approved_by: str, price_ids: Sequence[int]) -> PriceImport: ...

    def announce_since(self, version: int) -> bool:
        """Announce a change of the catalog. False if the catalog has changed since this version."""

    def audit(self, caller: Caller, changes: Sequence[Change]) -> None: ...


@dataclass(frozen=True, slots=True)
class ImportRequest:
    document: Any
    list_format: Format
    micros_per_dollar: int
    selection: Selection
    feature_endpoint_id: str | None = None
    # None: the prices hold from the approval on.
    effective_from: datetime | None = None


@dataclass(frozen=True, slots=True)
class Approved:
    price_import: PriceImport
    replayed: bool


class PriceImports:
    def __init__(
        self, *, books: BookKeeping[Books], past: PastUsage, changes: Showing, now: Callable[[], datetime]
    ) -> None:
        self._books = books
        self._past = past
        self._changes = changes
        self._now = now

    def draft(self, request: ImportRequest, caller: Caller = SYSTEM) -> PriceImport:
        """Read a price list and store what it would change as a draft. Changes no price.

        Raises PriceListRefused, Invalid, NotFound (the feature endpoint), AlreadyExists (prices from the same moment
        on) or Unavailable.
        """
        listed = read_price_list(
            request.document,
            list_format=request.list_format,
            selection=request.selection,
            micros_per_dollar=request.micros_per_dollar,
        )
        now = self._now()
        if request.effective_from is not None and request.effective_from <= now:
            reason = "Must be in the future. Without it prices hold from the approval on."
            raise Invalid(errors={"effective_from": [reason]})
        feature = request.feature_endpoint_id

        def load(books: Books) -> Catalog:
            if feature is not None:
                check_features(books, "feature_endpoint_id", [feature])
            return books.catalog()

        today = self._books.read(load)
        at = request.effective_from or now
        found = _difference(listed, today, feature, request.selection, at)
        proposed = [_card(change.model, change.rates, feature, at) for change in found.proposed]
        _check_moment(proposed, today.rate_cards)
        _check_limits(proposed, today.profit_rules, now)
        impact = usage_impact(
            self._past,
            today=today,
            proposed=proposed,
            since=now - timedelta(days=USAGE_DAYS),
            until=now,
            at=at,
        )
        values = {
            "format": request.list_format,
            "micros_per_dollar": request.micros_per_dollar,
            "feature_endpoint_id": feature,
            "effective_from": request.effective_from,
            "counts": _counts(listed, found),
            "proposed": [_proposed_row(change) for change in found.proposed],
            "report": _report(listed, found, impact),
            "actor": caller.actor,
        }

        def keep(books: Books) -> PriceImport:
            books.take_seconds(SECONDS_MAX)
            made = books.draft(**values)
            books.audit(caller, [Change("price_import.drafted", "price_import", str(made.id), after=_told(made))])
            return made

        return self._books.transaction(keep)

    def get(self, import_id: int) -> PriceImport:
        """Raises NotFound or Unavailable."""
        return self._books.read(lambda books: _found(books.find_import(import_id)))

    def list(self, limit: int, before_id: int = NEWEST) -> Page[PriceImportHead, int]:
        """Newest first. Raises Unavailable."""
        return self._books.read(
            lambda books: page(lambda count: books.list_imports(before_id, count), lambda each: each.id, limit)
        )

    def approve(self, import_id: int, *, allow_jumps: bool = False, caller: Caller = SYSTEM) -> Approved:
        """Make a draft's prices, all or none, effective from its moment or from now on. Idempotent.

        Raises NotFound, PricesJump (unless they are allowed), PriceImportOutdated, AlreadyExists, PriceListRefused
        (profit rules made meanwhile would make a run cost too much) or Unavailable.
        """
        draft = self.get(import_id)
        if draft.is_approved:
            return Approved(draft, replayed=True)
        jumps = [row["model"] for row in draft.proposed if row["is_jump"]]
        if jumps and not allow_jumps:
            raise PricesJump(errors={"allow_jumps": [f"Not allowed, and these jump: {_named(jumps)}."]})

        for _ in range(ATTEMPTS):
            try:
                approved = self._books.transaction(lambda books: _approve(books, import_id, caller))
            except _CatalogChanged:
                continue
            self._changes.show()
            return approved
        raise Unavailable


class _CatalogChanged(Exception):
    """The catalog was changed after this transaction had read it: roll back and try again."""


def _approve(books: Books, import_id: int, caller: Caller) -> Approved:
    """Raises _CatalogChanged, besides what `approve` raises.

    The change is announced last, because that locks the row that every process polls, and other changes must not wait
    for it while the many rows of an import are written.
    """
    books.take_seconds(SECONDS_MAX)
    state = books.state()
    draft = _found(books.lock_import(import_id))
    if draft.is_approved:
        return Approved(draft, replayed=True)
    if draft.effective_from is not None and draft.effective_from <= state.now:
        raise PriceImportOutdated("The moment from which these prices should hold has passed: import the list again")
    feature, effective_from = draft.feature_endpoint_id, draft.effective_from or state.now
    proposed = [(row["model"], stored_rates(row["rates"])) for row in draft.proposed]
    cards = RateCards(books.cards())
    made_of = [_card(model, rates, feature, effective_from) for model, rates in proposed]
    _check_base(cards, draft, effective_from)
    _check_moment(made_of, cards)
    _check_limits(made_of, ProfitRules(books.rules()), state.now)
    made = books.add_cards(proposed, feature_endpoint_id=feature, effective_from=effective_from)
    approved = books.mark_approved(import_id, approved_by=caller.actor, price_ids=made)
    after = {**_told(approved), "prices": len(made), "effective_from": effective_from}
    books.audit(caller, [Change("price_import.approved", "price_import", str(import_id), after=after)])
    if not books.announce_since(state.counters.catalog_version):
        raise _CatalogChanged
    return Approved(approved, replayed=False)


def _told(found: PriceImport) -> dict[str, Any]:
    """An import as the audit log has it, without its prices, which are stored with the import."""
    return {
        "format": found.format,
        "feature_endpoint_id": found.feature_endpoint_id,
        "effective_from": found.effective_from,
        "counts": found.counts,
    }


def _check_base(cards: RateCards, draft: PriceImport, at: datetime) -> None:
    """Raises PriceImportOutdated unless each model still has the price that the draft was compared with."""
    outdated = [
        row["model"]
        for row in draft.proposed
        if _id(_today(cards, draft.feature_endpoint_id, row["model"], at)) != row["today_id"]
    ]
    if outdated:
        raise PriceImportOutdated(errors={"model": [f"Priced anew meanwhile: {_named(outdated)}."]})


def _today(cards: RateCards, feature: str | None, model: str, at: datetime) -> RateCard | None:
    """The rate card that prices a model now: its own in this scope, or else the one that covers it or its pattern."""
    return cards.latest(feature, model, at) or cards.in_force(feature, model.removesuffix("*"), at)


def _difference(
    listed: PriceList, today: Catalog, feature: str | None, selection: Selection, at: datetime
) -> Difference:
    cards = today.rate_cards
    return difference(
        [(price.model, price.rates) for price in listed.prices],
        own=[
            card
            for card in cards.of_feature(feature, at)
            if card.model is not None and selection.has_model(card.model.removesuffix("*"))
        ],
        today=lambda model: _today(cards, feature, model, at),
    )


def _check_moment(proposed: Sequence[RateCard], cards: RateCards) -> None:
    """Raises AlreadyExists if a model has another price from the same moment on: which one holds would be ambiguous."""
    taken = [
        str(card.model)
        for card in proposed
        if (found := cards.latest(card.feature_endpoint_id, card.model, card.effective_from))
        and found.effective_from == card.effective_from
    ]
    if taken:
        reason = f"There are other prices from this moment on: {_named(taken)}."
        raise AlreadyExists("Price exists already", errors={"effective_from": [reason]})


def _check_limits(proposed: Sequence[RateCard], rules: ProfitRules, now: datetime) -> None:
    """Raises PriceListRefused if a run could cost more than can be counted under a present or coming profit rule."""
    in_force = list(rules.not_yet_followed(now))
    highest = max((rule.basis_points for rule in in_force), default=0)
    errors: dict[str, list[str]] = {}
    for card in proposed:
        if len(errors) == NAMED_MAX or not exceeds_limit(card, highest):
            continue
        if found := errors_of_card(card, in_force):
            errors[str(card.model)] = [reason for reasons in found.values() for reason in reasons]
    if errors:
        raise PriceListRefused(errors=errors)


def _card(model: str, rates: Rates, feature: str | None, at: datetime) -> RateCard:
    """The rate card that these rates would become."""
    return RateCard(NEWEST, rates, feature, model, at)


def _proposed_row(change: PriceChange) -> dict[str, Any]:
    return {
        "model": change.model,
        "is_new": change.is_new,
        "is_jump": change.is_jump,
        "today_id": _id(change.today),
        "rates": asdict(change.rates),
        "changes": [asdict(each) for each in change.changes],
    }


def _counts(listed: PriceList, found: Difference) -> dict[str, int]:
    return {
        "changed": len(found.changed),
        "new": len(found.new),
        "unchanged": found.unchanged_count,
        "kept": len(found.kept),
        "skipped": len(listed.skipped),
        "jumps": len(found.jumps),
        "rounded": sum(bool(price.rounded) for price in listed.prices),
        "free": sum(price.rates.cost_micros_max == 0 for price in listed.prices),
    }


def _report(listed: PriceList, found: Difference, impact: Impact) -> dict[str, Any]:
    return {
        "kept": [{"model": card.model, "price_id": card.id} for card in found.kept],
        "skipped": dict(listed.skipped),
        "passed_over": dict(listed.passed_over),
        "rounded": [{"model": price.model, "fields": list(price.rounded)} for price in listed.prices if price.rounded],
        "free": [price.model for price in listed.prices if price.rates.cost_micros_max == 0],
        "usage": {
            "since": moment_text(impact.since),
            "until": moment_text(impact.until),
            **asdict(impact.total),
            "by_model": [
                {"feature_endpoint_id": feature, "model": model, **asdict(effect)}
                for (feature, model), effect in _largest(impact.by_model)
            ],
            "by_user": [{"user_id": user, **asdict(effect)} for user, effect in _largest(impact.by_user)],
            "models": len(impact.by_model),
            "users": len(impact.by_user),
        },
    }


def _largest(effects: Mapping[Key, Effect]) -> Sequence[tuple[Key, Effect]]:
    """The effects with the largest change of cost, up or down."""
    return sorted(effects.items(), key=lambda item: -abs(item[1].new_cost_micros - item[1].old_cost_micros))[
        :EFFECTS_MAX
    ]


def _found(price_import: PriceImport | None) -> PriceImport:
    if price_import is None:
        raise NotFound("Price import not found")
    return price_import


def _id(card: RateCard | None) -> int | None:
    return None if card is None else card.id


def _named(models: Sequence[str]) -> str:
    more = len(models) - NAMED_MAX
    return ", ".join(models[:NAMED_MAX]) + (f" and {more} more" if more > 0 else "")
