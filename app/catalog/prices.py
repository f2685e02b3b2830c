"""Adding rate cards, and listing them. A card is followed by a newer one for the same, never changed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from app.access.postgres import PostgresAccess
from app.catalog.admin import check_features
from app.catalog.changes import CatalogChanges
from app.domain.errors import AlreadyExists, Invalid
from app.domain.in_force import ProfitRules
from app.domain.keys import SYSTEM, Caller
from app.domain.pages import NEWEST, Page, page
from app.domain.price_limits import errors_of_card
from app.domain.rates import RateCard, Rates
from app.domain.reports import Scope
from app.stores.postgres import audit
from app.stores.postgres import catalog as catalog_store
from app.stores.postgres import prices as store


@dataclass(frozen=True, slots=True)
class NewPrice:
    """A rate card that isn't made yet: in force from now on unless it names a moment."""

    rates: Rates
    feature_endpoint_id: str | None = None
    model: str | None = None
    effective_from: datetime | None = None

    def as_card(self, number: int, at: datetime) -> RateCard:
        """The card that it would be."""
        return RateCard(number, self.rates, self.feature_endpoint_id, self.model, self.effective_from or at)


class PriceAdmin:
    def __init__(self, *, postgres: PostgresAccess, changes: CatalogChanges, now: Callable[[], datetime]) -> None:
        self._postgres = postgres
        self._changes = changes
        self._now = now

    def add(self, price: NewPrice, caller: Caller = SYSTEM) -> RateCard:
        """Raises NotFound (the feature endpoint), AlreadyExists (a price for the same from the same moment on), Invalid
        (a run could cost more than can be counted) or Unavailable.
        """

        def work(connection: sa.Connection) -> RateCard:
            if price.feature_endpoint_id is not None:
                check_features(connection, "feature_endpoint_id", [price.feature_endpoint_id])
            now = self._now()
            rules = ProfitRules(catalog_store.all_rules(connection)).not_yet_followed(now)
            if errors := errors_of_card(price.as_card(0, now), rules):
                raise Invalid(errors=errors)
            card = store.insert(
                connection,
                price.rates,
                feature_endpoint_id=price.feature_endpoint_id,
                model=price.model,
                effective_from=price.effective_from,
            )
            if card is None:
                reason = "There is a price for the same feature endpoint and model from this moment on."
                raise AlreadyExists("Price exists already", errors={"effective_from": [reason]})
            audit.write(connection, caller, "price.created", ("price", card.id), after=_told(card))
            return card

        return self._changes.make(work)

    def list(self, scope: Scope, limit: int, before_id: int = NEWEST) -> Page[RateCard, int]:
        """Newest first. Raises Unavailable."""
        return self._postgres.run(
            lambda connection: page(
                lambda count: store.list_cards(connection, scope, before_id, count), lambda card: card.id, limit
            )
        )


def _told(card: RateCard) -> dict[str, Any]:
    """What the audit log tells of a rate card: whose it is, and what it says."""
    return {
        "feature_endpoint_id": card.feature_endpoint_id,
        "model": card.model,
        "effective_from": card.effective_from,
        **{name: value for name, value in asdict(card.rates).items() if value},
    }
