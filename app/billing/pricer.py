"""The price of a run that ends now, computed in the same way for ends and for estimates."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Protocol

from app.catalog.prices import NewPrice
from app.domain.catalog import Catalog
from app.domain.errors import FeatureNotAvailable, Invalid
from app.domain.in_force import RateCards
from app.domain.price_limits import errors_of_card
from app.domain.pricing import Price, price
from app.domain.rates import RateCard
from app.domain.usage import Usage

# Above the id of every rate card: a draft counts as the newest.
DRAFT_ID = 2**63 - 1


class CurrentCatalog(Protocol):
    @property
    def current(self) -> Catalog: ...


@dataclass(frozen=True, slots=True)
class Quote:
    """`card` is the rate card that `price` follows from, None for the default rule."""

    price: Price
    card: RateCard | None

    @property
    def is_draft(self) -> bool:
        return self.card is not None and self.card.id == DRAFT_ID


class Pricer:
    def __init__(self, *, catalog: CurrentCatalog, now: Callable[[], datetime]) -> None:
        self._catalog = catalog
        self._now = now

    def quote(self, feature_endpoint_id: str, model: str | None, usage: Usage, draft: NewPrice | None = None) -> Quote:
        """The price by the rate card and the profit rule in force now. A `draft` counts as if it had just been made.

        Raises FeatureNotAvailable, or Invalid for a draft that couldn't be made.
        """
        catalog, now = self._catalog.current, self._now()
        if feature_endpoint_id not in catalog.features:
            raise FeatureNotAvailable
        if draft is not None:
            catalog = _with_draft(catalog, draft, now)
        card = catalog.rate_cards.in_force(feature_endpoint_id, model, now)
        rule = catalog.profit_rules.in_force(feature_endpoint_id, model, now)
        return Quote(price(usage, card, rule), card)


def _with_draft(catalog: Catalog, draft: NewPrice, now: datetime) -> Catalog:
    card = replace(draft, effective_from=now).as_card(DRAFT_ID, now)
    if errors := errors_of_card(card, catalog.profit_rules.not_yet_followed(now)):
        raise Invalid(errors=errors)
    return replace(catalog, rate_cards=RateCards([*catalog.rate_cards, card]))
