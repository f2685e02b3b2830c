"""What operators do with failed ends over the admin API: list and replay."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
import sqlalchemy as sa
from flask.testing import FlaskClient
from redis import RedisError

from app.bootstrap import Container
from app.domain.wallets import Access
from app.services.start import StartRequest
from tests.http.admin import PREFIX, Admin, assert_invalid, data, failure
from tests.support import FEATURE, Billing, assert_conserved, retry_failed

UNKNOWN = "01890a5d-ac96-774b-bcce-b302099a8057"


def start(container: Container) -> Access:
    return container.start.start(StartRequest("u", FEATURE)).access


class TestList:
    def test_what_an_operator_sees(self, admin: Admin, owed: str) -> None:
        found = data(admin.get("/failed-ends"))
        [item] = found["items"]
        assert found["next_cursor"] is None
        assert item.pop("accepted_at").endswith("Z")
        assert item.pop("next_attempt_at").endswith("Z")
        assert item == {
            "id": owed,
            "user_id": "u",
            "feature_endpoint_id": FEATURE,
            "cost": 33,
            "state": "retrying",
            "attempts": 0,
            "last_error": "insufficient_tokens",
        }

    def test_filters_and_pages(self, admin: Admin, till: Billing) -> None:
        till.wallet("poor", tokens=0)
        till.wallet("rich", tokens=1_000)
        for i in range(5):
            till.container.end.end(till.usage("poor", output_tokens=40 + i))
        till.container.end.end(till.usage("u", output_tokens=400))
        till.container.end.end(till.usage("rich"))
        till.execute("UPDATE end_inbox SET state = 'dead', next_attempt_at = NULL WHERE output_tokens IN (41, 43)")

        pages = list(admin.pages("/failed-ends", limit=2))
        assert [len(page) for page in pages] == [2, 2, 2]
        listed = [item for page in pages for item in page]
        assert [item["cost"] for item in listed[:5]] == [Decimal(output) * 11 / 40 for output in range(40, 45)]
        assert listed[1]["next_attempt_at"] is None
        assert len(admin.items("/failed-ends", state="dead")) == 2
        assert len(admin.items("/failed-ends", state="retrying", limit=1)) == 4
        assert len(admin.items("/failed-ends", state="retrying", user_id="poor")) == 3
        assert admin.items("/failed-ends", user_id="nobody") == []

    @pytest.mark.parametrize("state", ["accepted", "DEAD", "", "dead,retrying"])
    def test_unknown_state(self, admin: Admin, state: str) -> None:
        assert_invalid(admin.get("/failed-ends", state=state), "state")

    def test_bad_user(self, admin: Admin) -> None:
        assert_invalid(admin.get("/failed-ends", user_id="x" * 129, state="x"), "state", "user_id")

    def test_the_cursor_of_another_list(self, admin: Admin) -> None:
        for cursor in ("YWJj", "MA"):
            assert_invalid(admin.get("/failed-ends", cursor=cursor), "cursor")


class TestReplay:
    def test_a_repaired_quote_settles(self, admin: Admin, till: Billing, disagreeing: str) -> None:
        assert start(till.container) is Access.DENIED
        till.execute("UPDATE end_inbox SET cost_micros = 11000000")
        assert start(till.container) is Access.DENIED

        replayed = data(admin.post(f"/failed-ends/{disagreeing}/replay", {}))
        assert (replayed["state"], replayed["attempts"], replayed["last_error"], replayed["next_attempt_at"]) == (
            "accepted",
            0,
            None,
            None,
        )
        # What was debt is an accepted end again, and stops nobody.
        assert till.cached_spendable_micros("u") == 9_000_000
        assert start(till.container) is Access.GRANTED
        assert stale_wallets(till.container) == []
        till.settle_everything()
        assert till.inbox("u") == []
        assert till.balance("u").posted_micros == 9_000_000
        assert till.cached_spendable_micros("u") == 9_000_000
        assert_conserved(till, "u")

    def test_an_unrepaired_quote_is_put_aside_again(self, admin: Admin, till: Billing, disagreeing: str) -> None:
        data(admin.post(f"/failed-ends/{disagreeing}/replay", {}))
        till.settle_everything()
        [end] = till.inbox("u")
        assert (end.state, end.last_error, end.attempts) == ("dead", "quote_disagrees", 1)

    @pytest.mark.parametrize("state", ["dead", "retrying"])
    def test_what_lacked_tokens_is_tried_now(
        self, admin: Admin, till: Billing, owed: str, monkeypatch: pytest.MonkeyPatch, state: str
    ) -> None:
        rung: list[Any] = []
        monkeypatch.setattr(till.container.doorbell, "retry", rung.extend)
        till.execute(f"UPDATE end_inbox SET state = '{state}', attempts = 7, next_attempt_at = now() + '1 day'")
        replayed = data(admin.post(f"/failed-ends/{owed}/replay", {}))
        assert (replayed["state"], replayed["attempts"], replayed["last_error"]) == (
            "retrying",
            0,
            "insufficient_tokens",
        )
        assert [str(end.id) for end in rung] == [owed]
        assert [str(end.id) for end in till.container.settlement.due_retries(10)] == [owed]
        # There is still too little: it fails as before, from the first attempt on.
        retry_failed(till.container, "u")
        [end] = till.inbox("u")
        assert (end.state, end.attempts) == ("retrying", 1)
        assert till.cached_spendable_micros("u") == -13_000_000

    def test_repeated(self, admin: Admin, disagreeing: str) -> None:
        first = data(admin.post(f"/failed-ends/{disagreeing}/replay", {}))
        assert data(admin.post(f"/failed-ends/{disagreeing}/replay", {})) == first

    def test_needs_no_body(self, client: FlaskClient, admin_headers: dict[str, str], disagreeing: str) -> None:
        data(client.post(f"{PREFIX}/failed-ends/{disagreeing}/replay", headers=admin_headers))

    def test_with_redis_away_the_sweep_corrects_the_copy(
        self, admin: Admin, till: Billing, disagreeing: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def away(*_: object, **__: object) -> None:
            raise RedisError

        start(till.container)
        with monkeypatch.context() as patch:
            patch.setattr(till.container.loader, "refresh", away)
            data(admin.post(f"/failed-ends/{disagreeing}/replay", {}))
        assert stale_wallets(till.container) == ["u"]
        till.container.redis_gate.open()
        # Nor does another change of the wallet, brought to Redis, make up for it.
        data(admin.post("/wallets/u/top-ups", {"token": 1, "reference": "r"}), 201)
        assert stale_wallets(till.container) == ["u"]
        assert start(till.container) is Access.DENIED
        till.container.settlement.refresh_stale(older_than_seconds=0)
        assert start(till.container) is Access.GRANTED

    def test_an_end_without_a_wallet(self, admin: Admin, till: Billing, owed: str) -> None:
        till.execute("UPDATE end_inbox SET user_id = 'nobody', state = 'dead', last_error = 'wallet_missing'")
        assert data(admin.post(f"/failed-ends/{owed}/replay", {}))["state"] == "accepted"
        till.settle_everything()
        [end] = till.inbox("nobody")
        assert (end.state, end.last_error) == ("dead", "wallet_missing")


@pytest.mark.parametrize("call", ["replay", "write-off"])
@pytest.mark.parametrize("end_id", [UNKNOWN, "1", "x", "01890a5dac96774bbcceb302099a8057"])
def test_unknown_end(admin: Admin, call: str, end_id: str) -> None:
    failure(admin.post(f"/failed-ends/{end_id}/{call}", {"reason": "Gone"}), 404, "not_found")


def stale_wallets(container: Container) -> list[str]:
    with container.engine.connect() as connection:
        return list(connection.execute(sa.text("SELECT user_id FROM stale_wallets")).scalars())
