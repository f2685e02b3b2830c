"""estimate: what would an end answer now? It is priced and decided as an end is, and nothing is recorded or marked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from redis import RedisError

from app.access.gate import Gate
from app.billing.ports import Balances, CurrentCatalog, WalletsToCache
from app.billing.pricer import Pricer, Quote
from app.catalog.prices import NewPrice
from app.domain.errors import FeatureNotAvailable, NotFound, WalletNotFound
from app.domain.processes import check_owner
from app.domain.usage import Usage
from app.domain.wallets import Deduction, WalletId, deduction, wallet_of
from app.stores.redis.wallet_look import WalletLook

# A cached wallet may be evicted between its load and the next attempt.
LOOK_ATTEMPTS = 3


@dataclass(frozen=True, slots=True)
class EstimateRequest:
    feature_endpoint_id: str
    usage: Usage
    model: str | None = None
    user_id: str | None = None
    """The user whose wallet is looked at. None: no wallet is."""
    process_id: str | None = None
    """The run whose hold would be drawn on first."""


@dataclass(frozen=True, slots=True)
class Estimate:
    quote: Quote
    usage: Usage
    spendable_micros: int | None = None
    deduction: Deduction | None = None


class Looks(Protocol):
    def look(self, wallet_id: WalletId, process_id: str | None, epoch: int) -> WalletLook | None:
        """None where the wallet isn't cached. Raises RedisError."""


class EstimateService:
    def __init__(
        self,
        *,
        pricer: Pricer,
        catalog: CurrentCatalog,
        looks: Looks,
        loader: WalletsToCache,
        balances: Balances,
        redis: Gate,
    ) -> None:
        self._pricer = pricer
        self._catalog = catalog
        self._looks = looks
        self._loader = loader
        self._balances = balances
        self._redis = redis

    def estimate(self, request: EstimateRequest, draft: NewPrice | None = None) -> Estimate:
        """What this run costs, and whether its wallet covers it. A key that was used before isn't looked up.

        Raises FeatureNotAvailable, Invalid (the draft), ProcessOfAnotherUser, WalletNotFound or Unavailable.
        """
        if request.user_id is not None:
            check_owner(request.process_id, request.user_id)
        quote = self._pricer.quote(request.feature_endpoint_id, request.model, request.usage, draft)
        if request.user_id is None:
            return Estimate(quote, request.usage)
        found = self._look(wallet_of(request.user_id), request.process_id)
        cost_micros = quote.price.cost_micros
        verdict = deduction(found.balance, cost_micros, found.own_hold_micros)
        return Estimate(quote, request.usage, found.balance.spendable_micros - cost_micros, verdict)

    def explain(self, request: EstimateRequest, draft: NewPrice | None = None) -> Estimate:
        """Like `estimate`, for administrators: raises NotFound instead of FeatureNotAvailable."""
        try:
            return self.estimate(request, draft)
        except FeatureNotAvailable as error:
            reasons = {"feature_endpoint_id": [f"Unknown feature endpoint: {request.feature_endpoint_id}"]}
            raise NotFound("Feature endpoint not found", errors=reasons) from error

    def _look(self, wallet_id: WalletId, process_id: str | None) -> WalletLook:
        """The wallet as cached in Redis, or from Postgres while Redis is away or can't cache it."""
        try:
            for _ in range(LOOK_ATTEMPTS):
                if not self._redis.is_open:
                    break
                if found := self._looks.look(wallet_id, process_id, self._catalog.epoch):
                    return found
                if wallet_id in self._loader.load([wallet_id], self._catalog.epoch):
                    raise WalletNotFound
        except RedisError as error:
            self._redis.close(error)
        wallet = self._balances.of([wallet_id]).get(wallet_id)
        if wallet is None:
            raise WalletNotFound
        return WalletLook(wallet.balance)
