"""Top-ups, refunds, adjustments and the transactions they leave, over the admin API."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import Any

import pytest
import sqlalchemy as sa
from redis import RedisError

from app.bootstrap import Container
from app.domain.postings import Posting, PostingKind
from app.stores.postgres.debts import IndebtedWallet
from tests.http.admin import NOT_AMOUNTS, Admin, assert_invalid, data, failure
from tests.support import FEATURE, Billing, assert_conserved, collect_now

KINDS = {"top-ups": "top_up", "refunds": "refund", "adjustments": "adjustment"}


@pytest.fixture
def wallet(billing: Billing) -> Billing:
    """The wallet `u`, empty."""
    billing.catalog()
    billing.wallet("u", tokens=0)
    return billing


def posted(admin: Admin) -> Any:
    return data(admin.get("/wallets/u"))["posted_token"]


@pytest.mark.parametrize("call", KINDS)
class TestEachKind:
    def test_post(self, admin: Admin, wallet: Billing, call: str) -> None:
        body = {"token": Decimal("10.25"), "reference": "ref-1", "reason": "Bought", "more": []}
        response = admin.post(f"/wallets/u/{call}", body)
        entry = data(response, 201)
        assert entry.pop("created_at").endswith("Z")
        assert entry == {
            "id": entry["id"],
            "user_id": "u",
            "kind": KINDS[call],
            "token": Decimal("10.25"),
            "base_cost": None,
            "profit": None,
            "cost": None,
            "input_token": None,
            "output_token": None,
            "cached_input_token": None,
            "cache_write_token": None,
            "reasoning_token": None,
            "requests": None,
            "model": None,
            "feature_endpoint_id": None,
            "price_id": None,
            "parts": None,
            "profit_rule_id": None,
            "balance_after": Decimal("10.25"),
            "reference": "ref-1",
            "reason": "Bought",
            "process_id": None,
            "end_id": None,
            "corrects": None,
            "request_id": response.headers["X-Request-Id"],
            "actor": "admin",
            "accepted_at": None,
        }
        assert posted(admin) == Decimal("10.25")
        assert_conserved(wallet, "u")

    def test_the_same_again(self, admin: Admin, wallet: Billing, call: str) -> None:
        body = {"token": 10, "reference": "ref-1", "reason": "Bought"}
        first = admin.post(f"/wallets/u/{call}", body)
        again = admin.post(f"/wallets/u/{call}", body | {"token": Decimal("10.0")})
        assert data(again, 200) == data(first, 201)
        assert again.headers["Idempotent-Replayed"] == "true"
        assert "Idempotent-Replayed" not in first.headers
        assert posted(admin) == 10

    def test_another_body_under_the_reference(self, admin: Admin, wallet: Billing, call: str) -> None:
        body = {"token": 10, "reference": "ref-1"}
        data(admin.post(f"/wallets/u/{call}", body), 201)
        for other in ({"token": 11}, {"reason": "Another"}):
            failure(admin.post(f"/wallets/u/{call}", body | other), 409, "idempotency_conflict")
        for other_call in KINDS.keys() - {call}:
            failure(admin.post(f"/wallets/u/{other_call}", body), 409, "idempotency_conflict")
        assert posted(admin) == 10

    def test_the_reference_of_another_wallet(self, admin: Admin, wallet: Billing, call: str) -> None:
        wallet.wallet("other", tokens=0)
        for user_id in ("u", "other"):
            data(admin.post(f"/wallets/{user_id}/{call}", {"token": 1, "reference": "r"}), 201)

    def test_unknown_wallet(self, admin: Admin, call: str) -> None:
        failure(admin.post(f"/wallets/none/{call}", {"token": 1, "reference": "r"}), 404, "wallet_not_found")

    @pytest.mark.parametrize("amount", [*NOT_AMOUNTS, "0", "-0", "-0.0", "0e9"])
    def test_bad_amount(self, admin: Admin, wallet: Billing, call: str, amount: str) -> None:
        assert_invalid(admin.post(f"/wallets/u/{call}", f'{{"token":{amount},"reference":"r"}}'), "token")

    @pytest.mark.parametrize("amount", ["0.000001", "1e-6", "1.5", "1E+3", "1000000000", "1.000000000000"])
    def test_exact_amount(self, admin: Admin, wallet: Billing, call: str, amount: str) -> None:
        response = admin.post(f"/wallets/u/{call}", f'{{"token":{amount},"reference":"r"}}')
        assert data(response, 201)["token"] == Decimal(amount)
        # Written as people write it: no exponent, no trailing zeros.
        assert f'"token":{Decimal(amount).normalize():f},'.encode() in response.data

    def test_bad_bodies(self, admin: Admin, wallet: Billing, call: str) -> None:
        assert_invalid(admin.post(f"/wallets/u/{call}", {}), "token", "reference")
        for reference in (None, 5, "", "x" * 256, "a\tb"):
            assert_invalid(admin.post(f"/wallets/u/{call}", {"token": 1, "reference": reference}), "reference")
        for reason in (5, "", "x" * 1_001):
            body = {"token": 1, "reference": "r", "reason": reason}
            assert_invalid(admin.post(f"/wallets/u/{call}", body), "reason")

    def test_not_above_what_a_balance_can_be(self, admin: Admin, wallet: Billing, call: str) -> None:
        for i in range(4):
            data(admin.post(f"/wallets/u/{call}", {"token": 10**9, "reference": str(i)}), 201)
        body = {"token": Decimal("0.000001"), "reference": "too-much"}
        failure(admin.post(f"/wallets/u/{call}", body), 409, "balance_out_of_range")
        assert posted(admin) == 4 * 10**9
        assert_conserved(wallet, "u")


class TestCredits:
    @pytest.mark.parametrize("call", ["top-ups", "refunds"])
    def test_never_negative(self, admin: Admin, wallet: Billing, call: str) -> None:
        assert_invalid(admin.post(f"/wallets/u/{call}", {"token": -1, "reference": "r"}), "token")

    def test_a_closed_wallet_takes_them(self, admin: Admin, wallet: Billing) -> None:
        data(admin.patch("/wallets/u", {"status": "closed"}))
        data(admin.post("/wallets/u/refunds", {"token": 1, "reference": "r"}), 201)

    def test_wake_what_failed_for_want_of_tokens(
        self, admin: Admin, wallet: Billing, container: Container, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        rung: list[IndebtedWallet] = []
        monkeypatch.setattr(container.doorbell, "collect", rung.extend)
        container.end.end(wallet.usage("u", output_tokens=40))
        container.end.end(wallet.usage("u", output_tokens=44))
        container.end.end(wallet.usage("u", output_tokens=48))
        wallet.settle_everything()
        wallet.execute("UPDATE end_inbox SET state = 'dead' WHERE output_tokens = 40")
        wallet.execute("UPDATE end_inbox SET state = 'dead', last_error = 'quote_disagrees' WHERE output_tokens = 48")
        wallet.execute("UPDATE wallets SET collect_at = now() + interval '1 day'")

        # Too little for the oldest: nobody has to be told.
        data(admin.post("/wallets/u/top-ups", {"token": 10, "reference": "small"}), 201)
        assert rung == []
        data(admin.post("/wallets/u/top-ups", {"token": 90, "reference": "credit"}), 201)
        assert rung == [IndebtedWallet("u", 36_300_000)]
        # One more while that one's message is on its way.
        data(admin.post("/wallets/u/top-ups", {"token": 1, "reference": "another"}), 201)
        data(admin.post("/wallets/u/adjustments", {"token": -1, "reference": "back"}), 201)
        assert len(rung) == 1
        collect_now(container, "u")
        assert [end.output_tokens for end in wallet.inbox("u")] == [48]
        assert posted(admin) == 100 - 11 - Decimal("12.1")
        assert_conserved(wallet, "u")

        # Sent again it wakes nobody.
        data(admin.post("/wallets/u/top-ups", {"token": 90, "reference": "credit"}))
        assert len(rung) == 1


class TestAdjustments:
    def test_down_to_the_overdraft_limit(self, admin: Admin, wallet: Billing) -> None:
        data(admin.patch("/wallets/u", {"overdraft_limit_token": 2}))
        data(admin.post("/wallets/u/top-ups", {"token": 3, "reference": "a"}), 201)
        body = {"token": Decimal("-5.000001"), "reference": "b"}
        failure(admin.post("/wallets/u/adjustments", body), 409, "balance_out_of_range")
        entry = data(admin.post("/wallets/u/adjustments", body | {"token": -5}), 201)
        assert (entry["token"], entry["balance_after"]) == (-5, -2)
        assert posted(admin) == -2
        assert_conserved(wallet, "u")

    def test_a_debit_wakes_nobody(
        self, admin: Admin, wallet: Billing, container: Container, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        rung: list[IndebtedWallet] = []
        monkeypatch.setattr(container.doorbell, "collect", rung.extend)
        data(admin.post("/wallets/u/top-ups", {"token": 3, "reference": "a"}), 201)
        container.end.end(wallet.usage("u", output_tokens=40))
        data(admin.post("/wallets/u/adjustments", {"token": -1, "reference": "b"}), 201)
        assert rung == []


class TestCache:
    def test_a_posting_shows_in_the_cached_wallet(self, admin: Admin, wallet: Billing, container: Container) -> None:
        container.loader.load(["u"], container.catalog.epoch)
        data(admin.post("/wallets/u/top-ups", {"token": 5, "reference": "r"}), 201)
        assert wallet.cached_spendable_micros("u") == 5_000_000
        assert stale_wallets(container) == []

    def test_with_redis_away_the_sweep_corrects_the_copy(
        self, admin: Admin, wallet: Billing, container: Container, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def away(*_: object) -> None:
            raise RedisError

        container.loader.load(["u"], container.catalog.epoch)
        with monkeypatch.context() as patch:
            patch.setattr(container.cache, "apply", away)
            data(admin.post("/wallets/u/top-ups", {"token": 5, "reference": "r"}), 201)
        assert not container.redis_gate.is_open
        data(admin.post("/wallets/u/top-ups", {"token": 2, "reference": "s"}), 201)
        assert set(stale_wallets(container)) == {"u"}
        assert wallet.cached_spendable_micros("u") == 0
        container.stale_copies.refresh(older_than_seconds=0)
        assert wallet.cached_spendable_micros("u") == 7_000_000
        assert stale_wallets(container) == []


class TestTransactions:
    def test_newest_first_page_by_page(self, admin: Admin, wallet: Billing) -> None:
        wallet.wallet("other", tokens=1)
        for i in range(5):
            data(admin.post("/wallets/u/top-ups", {"token": i + 1, "reference": str(i)}), 201)
        pages = list(admin.pages("/wallets/u/transactions", limit=2))
        assert [[item["token"] for item in page] for page in pages] == [[5, 4], [3, 2], [1]]
        assert [item["balance_after"] for page in pages for item in page] == [15, 10, 6, 3, 1]

    def test_usage(self, admin: Admin, wallet: Billing, container: Container) -> None:
        data(admin.post("/wallets/u/top-ups", {"token": 100, "reference": "r"}), 201)
        container.end.end(wallet.usage("u", output_tokens=41, model="large", idempotency_key="key", process_id="p"))
        wallet.settle_everything()
        entry = data(admin.get("/wallets/u/transactions", limit=1))["items"][0]
        assert (
            entry.items()
            >= {
                "kind": "usage",
                "token": Decimal("-11.275"),
                "base_cost": Decimal("10.25"),
                "profit": Decimal("1.025"),
                "cost": Decimal("11.275"),
                "input_token": 10,
                "output_token": 41,
                "model": "large",
                "feature_endpoint_id": FEATURE,
                "balance_after": Decimal("88.725"),
                "reference": "key",
                "process_id": "p",
            }.items()
        )
        # A posting may carry the reference that an end had.
        data(admin.post("/wallets/u/refunds", {"token": Decimal("11.275"), "reference": "key"}), 201)

    def test_none_yet(self, admin: Admin, wallet: Billing) -> None:
        assert data(admin.get("/wallets/u/transactions")) == {"items": [], "next_cursor": None}

    def test_unknown_wallet(self, admin: Admin) -> None:
        failure(admin.get("/wallets/none/transactions"), 404, "wallet_not_found")


def test_many_at_once_post_each_reference_once(wallet: Billing, container: Container) -> None:
    def post(i: int) -> bool:
        posting = Posting("u", PostingKind.TOP_UP, 1_000_000, f"ref-{i % 10}")
        return container.postings.post(posting).replayed

    with ThreadPoolExecutor(8) as pool:
        replayed = list(pool.map(post, range(60)))
    assert replayed.count(False) == 10
    assert wallet.balance("u").posted_micros == 10_000_000
    assert_conserved(wallet, "u")


def stale_wallets(container: Container) -> list[str]:
    with container.engine.connect() as connection:
        return list(connection.execute(sa.text("SELECT unnest(wallet_ids) FROM stale_notes")).scalars())
