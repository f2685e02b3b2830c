"""What operators do with failed ends over the admin API: list and replay."""

from __future__ import annotations

from decimal import Decimal

import pytest
import sqlalchemy as sa
from flask.testing import FlaskClient

from app.billing.start import StartRequest
from app.bootstrap import Container
from app.domain.wallets import Access
from app.stores.postgres.debts import IndebtedWallet
from tests.http.admin import PREFIX, Admin, assert_invalid, data, failure
from tests.support import FEATURE, Billing, assert_conserved, collect_now

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
            "kind": "usage",
            "corrects": None,
            "reference": None,
            "feature_endpoint_id": FEATURE,
            "model": "large",
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
        till.execute("UPDATE end_inbox SET state = 'dead' WHERE output_tokens IN (41, 43)")

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
        # Until settlement has been at it, it is what it was.
        assert start(till.container) is Access.DENIED
        till.settle_everything()
        assert start(till.container) is Access.GRANTED
        assert stale_wallets(till.container) == []
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
        rung: list[IndebtedWallet] = []
        monkeypatch.setattr(till.container.doorbell, "collect", rung.extend)
        till.settle_everything()
        till.execute(f"UPDATE end_inbox SET state = '{state}', attempts = 7")
        till.execute("UPDATE wallets SET collect_at = now() + interval '1 day'")
        replayed = data(admin.post(f"/failed-ends/{owed}/replay", {}))
        assert (replayed["state"], replayed["attempts"], replayed["last_error"]) == (
            "retrying",
            0,
            "insufficient_tokens",
        )
        assert rung == [IndebtedWallet("u", 33_000_000)]
        assert till.container.collection.due_wallets(10) == rung
        # There is still too little: it fails as before, from the first attempt on.
        collect_now(till.container, "u")
        [end] = till.inbox("u")
        assert (end.state, end.attempts) == ("retrying", 1)
        assert start(till.container) is Access.DENIED
        assert till.cached_spendable_micros("u") == -13_000_000

    def test_repeated(self, admin: Admin, disagreeing: str) -> None:
        first = data(admin.post(f"/failed-ends/{disagreeing}/replay", {}))
        assert data(admin.post(f"/failed-ends/{disagreeing}/replay", {})) == first

    def test_needs_no_body(self, client: FlaskClient, admin_headers: dict[str, str], disagreeing: str) -> None:
        data(client.post(f"{PREFIX}/failed-ends/{disagreeing}/replay", headers=admin_headers))

    def test_an_end_without_a_wallet(self, admin: Admin, till: Billing, owed: str) -> None:
        till.execute("UPDATE end_inbox SET wallet_id = 'nobody', state = 'dead', last_error = 'wallet_missing'")
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
        return list(connection.execute(sa.text("SELECT unnest(wallet_ids) FROM stale_notes")).scalars())
