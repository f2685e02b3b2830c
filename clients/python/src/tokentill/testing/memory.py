"""A Tokentill server in memory, for tests of services: same answers, real prices and balances, no network.

    memory = MemoryTokentill(features=["chat"], wallets={"user-1": 1_000}, profit_percentage=10)
    client = memory.client()

It is a transport for httpx, so the client that is tested is the real one, with its retries, keys and outbox.
It has the calls of service servers; catalog and wallets are set by its methods.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import httpx

from tokentill.client import AsyncTokenProcess, TokenProcess
from tokentill.testing.bodies import Refused, checked_key, read, written
from tokentill.testing.calls import CALLS
from tokentill.testing.prices import ProfitRule, micros, price_from, tokens
from tokentill.testing.state import Feature, MemoryEnd, State, Wallet
from tokentill.wire import Amount

URL = "http://memory.tokentill.test"
API_KEY = "memory-key"


@dataclass(frozen=True)
class MemoryHold:
    """Tokens that an open run has reserved."""

    process_id: str
    token: Amount
    expires_at: datetime


@dataclass(frozen=True)
class MemoryCall:
    """One call as it came in: `path` is what follows `/api/token-process/`."""

    path: str
    body: Any
    headers: Mapping[str, str]


class MemoryTokentill(httpx.BaseTransport, httpx.AsyncBaseTransport):
    """See the module. May be shared between threads.

    `calls` has all that came in, `ends` what was billed. `away = True`: no connection.
    """

    def __init__(
        self,
        *,
        features: Iterable[str] = (),
        wallets: Mapping[str, Amount] | None = None,
        profit_percentage: Amount | None = None,
    ) -> None:
        self.calls: list[MemoryCall] = []
        self.away = False
        self._lock = threading.RLock()
        self._state = State()
        self._failures: list[int] = []
        self._answers_to_lose = 0
        for feature in features:
            self.add_feature(feature)
        for user_id, token in (wallets or {}).items():
            self.add_wallet(user_id, token)
        if profit_percentage is not None:
            self.add_profit(profit_percentage)

    def add_feature(
        self,
        feature_endpoint_id: str,
        *,
        min_token: Amount = 1,
        unpriced: str = "default",
        reversal_seconds: int = 0,
    ) -> None:
        """A feature endpoint. `unpriced="refuse"`: no start with a model that no price covers. For
        `reversal_seconds` its runs can be reversed.
        """
        feature = Feature(micros(min_token), unpriced == "refuse", reversal_seconds)
        self._state.features[feature_endpoint_id] = feature

    def add_package(self, package_id: str, features: Iterable[str]) -> None:
        """A package of these features only; the package `default` has them all."""
        self._state.packages[package_id] = set(features)

    def add_wallet(
        self,
        user_id: str,
        token: Amount = 0,
        *,
        package_id: str = "default",
        overdraft_limit_token: Amount = 0,
    ) -> None:
        """A wallet with this balance."""
        if package_id not in self._state.packages:
            raise KeyError(package_id)
        self._state.wallets[user_id] = Wallet(package_id, micros(token), micros(overdraft_limit_token))

    def add_profit(
        self, percentage: Amount, *, feature_endpoint_id: str | None = None, model: str | None = None
    ) -> None:
        """A profit for a feature, a model, both, or all; of two alike the later counts."""
        rule = ProfitRule(len(self._state.profit_rules) + 1, percentage, feature_endpoint_id, model)
        rule.profit_micros(0)  # ValueError here, not in a call.
        self._state.profit_rules.append(rule)

    def add_price(self, **price: Any) -> int:
        """A price, with the fields of the server's `POST /api/admin/prices`. Answers its id."""
        price_id = len(self._state.prices) + 1
        self._state.prices.append(price_from(price_id, price))
        return price_id

    def top_up(self, user_id: str, token: Amount) -> None:
        """Pay in; debts are paid first, the oldest first."""
        with self._lock:
            wallet = self._state.wallets[user_id]
            wallet.posted_micros += micros(token)
            wallet.collect()

    def suspend(self, user_id: str) -> None:
        """No more starts; ends are billed all the same."""
        self._state.wallets[user_id].active = False

    @property
    def ends(self) -> list[MemoryEnd]:
        """Every end that was billed, the oldest first."""
        return self._state.ends

    def token(self, user_id: str) -> Amount:
        """What the user can spend now."""
        with self._lock:
            return tokens(self._state.wallet(user_id).spendable_micros)

    def debt(self, user_id: str) -> Amount:
        """Costs that are not paid yet."""
        return tokens(sum(self._state.wallets[user_id].debts_micros))

    def holds(self, user_id: str) -> list[MemoryHold]:
        """The open holds, the oldest first."""
        with self._lock:
            holds = self._state.wallet(user_id).holds
            return [
                MemoryHold(name, tokens(hold.amount_micros), hold.expires_at) for name, hold in holds.items()
            ]

    def client(self, **settings: Any) -> TokenProcess:
        """A client of this server; settings as `TokenProcess` takes them."""
        return TokenProcess(URL, API_KEY, transport=self, disabled=False, **settings)

    def async_client(self, **settings: Any) -> AsyncTokenProcess:
        """A client of this server for asyncio."""
        return AsyncTokenProcess(URL, API_KEY, transport=self, disabled=False, **settings)

    def fail_next(self, status: int, times: int = 1) -> None:
        """Answer the next calls with this status, without carrying them out."""
        self._failures += [status] * times

    def lose_answers(self, times: int = 1) -> None:
        """Carry the next calls out, and lose their answers."""
        self._answers_to_lose += times

    def advance(self, seconds: float) -> None:
        """Let time pass: holds expire."""
        self._state.passed += timedelta(seconds=seconds)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        request.read()
        if self.away:
            raise httpx.ConnectError("MemoryTokentill is away", request=request)
        with self._lock:
            answer = self._answer(request)
            if self._answers_to_lose:
                self._answers_to_lose -= 1
                raise httpx.ReadError("The answer was lost", request=request)
        return answer

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        await request.aread()
        return self.handle_request(request)

    def _answer(self, request: httpx.Request) -> httpx.Response:
        headers = {"Content-Type": "application/json"}
        try:
            answer, status = self._carried_out(request), 200
        except Refused as refused:
            answer, status = refused.body(), refused.status
            if status == 503:
                headers["Retry-After"] = "0"
        if answer.pop("replayed", False):
            headers["Idempotent-Replayed"] = "true"
        return httpx.Response(status, content=written(answer).encode(), headers=headers, request=request)

    def _carried_out(self, request: httpx.Request) -> dict[str, Any]:
        if request.headers.get("x-server-api-key") != API_KEY:
            raise Refused(401, "unauthorized", "Invalid server API key")
        path, body = request.url.path.removeprefix("/api/token-process/"), read(request)
        self.calls.append(MemoryCall(path, body, dict(request.headers)))
        if self._failures:
            raise _failure(self._failures.pop(0))
        if path not in CALLS:
            raise Refused(404, "not_found", "Not Found")
        message, call = CALLS[path]
        answer = call(
            self._state, body, checked_key(request.headers.get("idempotency-key"), "Idempotency-Key")
        )
        return {"success": True, "message": message, "data": answer.data, "replayed": answer.replayed}


def _failure(status: int) -> Refused:
    if status == 503:
        return Refused(503, "temporarily_unavailable", "Temporarily unavailable, please retry")
    return Refused(status, "internal_error" if status >= 500 else f"http_{status}", "As the test wanted")
