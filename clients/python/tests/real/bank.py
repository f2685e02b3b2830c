"""What the tests see of the money: the admin API."""

from __future__ import annotations

import itertools
import time
import uuid
from decimal import Decimal
from typing import Any

import httpx

from tokentill import ConflictError
from tokentill.wire import parse

SETTLE_TIMEOUT_SECONDS = 30.0
# Changes of the catalogue reach every API process within one second.
CATALOGUE_SECONDS = 1.2


class Bank:
    """Creates features, packages and wallets with ids of their own, and reads balances and transactions."""

    def __init__(self, url: str, admin_key: str) -> None:
        self._http = httpx.Client(
            base_url=f"{url}/api/admin", headers={"x-admin-api-key": admin_key}, timeout=30
        )
        self._ids = itertools.count()
        self._run = uuid.uuid4().hex[:8]

    def close(self) -> None:
        self._http.close()

    def new_id(self, kind: str) -> str:
        return f"py-{kind}-{self._run}-{next(self._ids)}"

    def feature(self, percentage: float = 10) -> tuple[str, str]:
        """A feature with that profit and a package that holds it: (feature id, package id)."""
        feature = self.new_id("feature")
        return feature, self.package({feature: percentage})

    def package(self, percentages: dict[str, float]) -> str:
        """A package of these features, each with its profit. Those that exist already stay."""
        for feature, percentage in percentages.items():
            try:
                self._post("/feature-endpoints", {"id": feature, "name": feature})
            except ConflictError:
                continue
            self._post("/profit-rules", {"percentage": percentage, "feature_endpoint_id": feature})
        package = self.new_id("package")
        self._post("/packages", {"id": package, "name": package, "feature_endpoint_ids": list(percentages)})
        time.sleep(CATALOGUE_SECONDS)
        return package

    def price(self, feature: str, prices: list[dict[str, Any]]) -> None:
        """Prices for that feature, which from now on starts no model without one."""
        for price in prices:
            plain = {
                name: float(value) if isinstance(value, Decimal) else value for name, value in price.items()
            }
            self._post("/prices", {**plain, "feature_endpoint_id": feature})
        answer = self._http.patch(f"/feature-endpoints/{feature}", json={"unpriced": "refuse"})
        parse(answer.status_code, answer.text)
        time.sleep(CATALOGUE_SECONDS)

    def allow_reversals(self, feature: str, seconds: int) -> None:
        answer = self._http.patch(f"/feature-endpoints/{feature}", json={"reversal_seconds": seconds})
        parse(answer.status_code, answer.text)
        time.sleep(CATALOGUE_SECONDS)

    def wallet(self, package: str, token: int) -> str:
        user = self.new_id("user")
        self._post("/wallets", {"user_id": user, "package_id": package})
        if token:
            self._post(f"/wallets/{user}/top-ups", {"token": token, "reference": "first"})
        return user

    def drain(self, user_id: str) -> None:
        """Take what is left in the wallet."""
        left = self.settled(user_id)
        self._post(
            f"/wallets/{user_id}/adjustments", {"token": -float(left), "reference": "drain", "reason": "test"}
        )

    def balance(self, user_id: str) -> dict[str, Any]:
        data: dict[str, Any] = parse_answer(self._http.get(f"/wallets/{user_id}"))
        return data

    def settled(self, user_id: str) -> int | Decimal:
        """The posted balance once nothing is pending any more."""
        deadline = time.monotonic() + SETTLE_TIMEOUT_SECONDS
        while (balance := self.balance(user_id))["pending_token"] != 0:
            assert time.monotonic() < deadline, f"Not settled: {balance}"
            time.sleep(0.05)
        posted: int | Decimal = balance["posted_token"]
        return posted

    def usage(self, user_id: str) -> list[dict[str, Any]]:
        """Every usage transaction of the wallet, newest first, once nothing is pending."""
        self.settled(user_id)
        found: list[dict[str, Any]] = []
        cursor = None
        while True:
            page = parse_answer(
                self._http.get(
                    f"/wallets/{user_id}/transactions",
                    params={"limit": 200, **({"cursor": cursor} if cursor else {})},
                )
            )
            found += [item for item in page["items"] if item["kind"] == "usage"]
            cursor = page["next_cursor"]
            if cursor is None:
                return found

    def _post(self, path: str, body: dict[str, Any]) -> Any:
        return parse_answer(self._http.post(path, json=body))


def parse_answer(response: httpx.Response) -> Any:
    return parse(response.status_code, response.text)["data"]
