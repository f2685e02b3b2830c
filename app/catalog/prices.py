"""Adding rate cards, and listing them. A card is never changed: a newer one for the same scope takes its place."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Protocol

from app.access.ports import BookKeeping
from app.catalog.admin import Features, check_features
from app.catalog.changes import Announcing, CatalogChanges
from app.domain.audit import Change
from app.domain.errors import AlreadyExists, Invalid
from app.domain.in_force import ProfitRules
from app.domain.keys import SYSTEM, Caller
from app.domain.pages import NEWEST, Page, page
from app.domain.price_limits import errors_of_card
from app.domain.pricing import ProfitRule
from app.domain.rates import RateCard, Rates
from app.domain.reports import Scope


class Books(Features, Announcing, Protocol):
    """Rate cards beside the profit rules, in one transaction."""

    def rules(self) -> Sequence[ProfitRule]: ...

    def add_card(
        self,
        rates: Rates,
        *,
        feature_endpoint_id: str | None,
        model: str | None,
        effective_from: datetime | None,
    ) -> RateCard | None: ...

    def list_cards(self, scope: Scope, before_id: int, limit: int) -> Sequence[RateCard]: ...

    def audit(self, caller: Caller, changes: Sequence[Change]) -> None: ...


@dataclass(frozen=True, slots=True)
class NewPrice:
    """A rate card to be made, in force from now on unless it names a moment."""

    rates: Rates
    feature_endpoint_id: str | None = None
    model: str | None = None
    effective_from: datetime | None = None

    def as_card(self, number: int, at: datetime) -> RateCard:
        """The rate card that it would become."""
        return RateCard(number, self.rates, self.feature_endpoint_id, self.model, self.effective_from or at)


class PriceAdmin:
    def __init__(
        self, *, books: BookKeeping[Books], changes: CatalogChanges[Books], now: Callable[[], datetime]
    ) -> None:
        self._books = books
        self._changes = changes
        self._now = now

    def add(self, price: NewPrice, caller: Caller = SYSTEM) -> RateCard:
        """Raises NotFound (the feature endpoint), AlreadyExists (a price for the same from the same moment on), Invalid
        (a run could cost more than can be counted) or Unavailable.
        """

        def work(books: Books) -> RateCard:
            if price.feature_endpoint_id is not None:
                check_features(books, "feature_endpoint_id", [price.feature_endpoint_id])
            now = self._now()
            rules = ProfitRules(books.rules()).not_yet_followed(now)
            if errors := errors_of_card(price.as_card(0, now), rules):
                raise Invalid(errors=errors)
            card = books.add_card(
                price.rates,
                feature_endpoint_id=price.feature_endpoint_id,
                model=price.model,
                effective_from=price.effective_from,
            )
            if card is None:
                reason = "There is a price for the same feature endpoint and model from this moment on."
                raise AlreadyExists("Price exists already", errors={"effective_from": [reason]})
            books.audit(caller, [Change("price.created", "price", str(card.id), after=_told(card))])
            return card

        return self._changes.make(work)

    def list(self, scope: Scope, limit: int, before_id: int = NEWEST) -> Page[RateCard, int]:
        """Newest first. Raises Unavailable."""
        return self._books.read(
            lambda books: page(lambda count: books.list_cards(scope, before_id, count), lambda card: card.id, limit)
        )


def _told(card: RateCard) -> dict[str, Any]:
    """A rate card as the audit log has it: its scope and its rates."""
    return {
        "feature_endpoint_id": card.feature_endpoint_id,
        "model": card.model,
        "effective_from": card.effective_from,
        **{name: value for name, value in asdict(card.rates).items() if value},
    }
