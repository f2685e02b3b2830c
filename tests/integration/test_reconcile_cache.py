"""Reconciliation finds each kind of drift of a cached wallet, and corrects it."""

from __future__ import annotations

import pytest
from uuid_utils.compat import uuid7

from app.domain.errors import Unavailable
from app.stores.postgres.reconciliation import Drift
from app.stores.redis.keys import wallet_keys
from tests.reconciling import Run, cached, only, open_shop, quick, tamper
from tests.support import Billing, assert_conserved


@pytest.fixture
def shop(billing: Billing) -> Billing:
    return open_shop(billing)


@pytest.fixture
def run(shop: Billing) -> Run:
    return quick(shop.container).run


class TestCache:
    """Drifts are told and corrected: what can be spent is right afterwards."""

    def corrected(self, run: Run, shop: Billing, user_id: str = "user-1") -> Drift:
        drift = only(done := run())
        assert (drift.wallet_id, drift.kind, drift.repaired, done.repaired) == (user_id, "cache", True, 1)
        assert done.adds_up
        assert run().drifted_count == 0
        balance = shop.balance(user_id)
        [held_micros] = shop.container.wallet_holds.held([user_id])
        assert shop.cached_spendable_micros(user_id) == balance.spendable_micros - held_micros
        assert int(cached(shop, user_id)["debt"]) == balance.debt_micros
        assert_conserved(shop, user_id)
        return drift

    @pytest.mark.parametrize(
        ("field", "value", "detail"),
        [
            ("available", "999000000", "available is 1031 off its own sum (totals counted anew)"),
            ("debt", "0", "debt is -110 off its own sum (totals counted anew)"),
            ("held", "1", "held is -4.999999 off its own sum (totals counted anew)"),
            ("posted", "90000000", "available is -1 off its own sum; posted is 90, not 89 (totals counted anew)"),
            ("overdraft", "5", "overdraft limit is 0.000005, not 0 (refreshed)"),
            ("status", "suspended", "status is suspended, not active (refreshed)"),
            ("package", "", "package is None, not package-basic (refreshed)"),
            ("version", "1", "version 1 is behind 2 (refreshed)"),
            ("version", "900", "version 900 is ahead of 2 (dropped and loaded anew, without its holds)"),
            ("version", "x", "can't be read: invalid literal for int() with base 10: 'x' (dropped and loaded anew"),
            ("p:x", "p1", "can't be read: badly formed hexadecimal UUID string (dropped and loaded anew"),
        ],
    )
    def test_a_field(self, run: Run, shop: Billing, field: str, value: str, detail: str) -> None:
        before = cached(shop)
        shop.container.redis_client.hset(wallet_keys("user-1")[0], field, value)
        drift = self.corrected(run, shop)
        assert drift.detail.startswith(detail)
        is_dropped = "dropped" in detail
        # A hold survives wherever it can.
        assert cached(shop)["held"] == ("0" if is_dropped else "5000000")
        if not is_dropped:
            assert cached(shop) == before

    def test_its_amounts(self, run: Run, shop: Billing) -> None:
        shop.container.redis_client.hincrby(wallet_keys("user-1")[0], "available", 2_000_000)
        drift = only(run())
        # Posted 89, less 11 on its way, 110 of debt and 5 held.
        assert (drift.expected_micros, drift.found_micros) == (-37_000_000, -35_000_000)

    def test_a_field_that_is_gone(self, run: Run, shop: Billing) -> None:
        shop.container.redis_client.hdel(wallet_keys("user-1")[0], "version")
        assert "can't be read: 'version'" in self.corrected(run, shop).detail

    def test_something_else_in_its_place(self, run: Run, shop: Billing) -> None:
        key = wallet_keys("user-2")[0]
        shop.container.redis_client.delete(key)
        shop.container.redis_client.set(key, "x")
        assert "is of another type" in self.corrected(run, shop, "user-2").detail

    def test_an_end_that_is_missing(self, run: Run, shop: Billing) -> None:
        accepted, _ = shop.inbox("user-1")
        key = wallet_keys("user-1")[0]
        shop.container.redis_client.hdel(key, f"p:{accepted.id}")
        shop.container.redis_client.hincrby(key, "available", 11_000_000)
        drift = self.corrected(run, shop)
        assert drift.detail == f"end {accepted.id} of 11 is missing (refreshed)"
        assert drift.found_micros - drift.expected_micros == 11_000_000

    def test_an_end_of_the_wrong_kind(self, run: Run, shop: Billing) -> None:
        tamper(shop, "UPDATE end_inbox SET state = 'dead' WHERE state = 'accepted'")
        assert "is covered at 11, not failed at 11" in self.corrected(run, shop).detail

    def test_an_end_that_is_settled(self, run: Run, shop: Billing) -> None:
        shop.container.loader.refresh(["user-2"])
        shop.container.end.end(shop.usage("user-2", output_tokens=40))
        [end] = shop.inbox("user-2")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(shop.container.cache, "apply", lambda *_: None)
            shop.settle_everything()
        # user-1's accepted end was settled with it.
        done = run()
        assert [drift.wallet_id for drift in done.drifted] == ["user-1", "user-2"]
        assert done.repaired == 2
        assert done.drifted[1].detail == (
            f"end {end.id} of 11 is told of and still marked; version 1 is behind 2 (refreshed)"
        )
        assert run().drifted_count == 0
        assert shop.cached_spendable_micros("user-2") == 89_000_000

    def test_a_mark_of_nobody(self, run: Run, shop: Billing) -> None:
        end_id = uuid7()
        key = wallet_keys("user-1")[0]
        shop.container.redis_client.hset(key, f"p:{end_id}", "p4000000")
        shop.container.redis_client.hincrby(key, "available", -4_000_000)
        drift = self.corrected(run, shop)
        assert drift.detail == f"end {end_id} of 4 is unknown (refreshed)"
        assert drift.found_micros - drift.expected_micros == -4_000_000

    def test_a_hold_that_would_never_end(self, run: Run, shop: Billing) -> None:
        shop.container.redis_client.delete(wallet_keys("user-1")[1])
        assert "would never expire" in self.corrected(run, shop).detail
        assert cached(shop)["held"] == "0"

    def test_ends_on_their_way_are_no_drift(self, run: Run, shop: Billing) -> None:
        container = shop.container
        container.postgres_gate.close(ConnectionError("test"))
        container.end.end(shop.usage("user-2"))
        container.postgres_gate.open()
        assert container.spool.size() == 1
        assert run().drifted_count == 0
        container.spool_drain.drain()
        assert run().drifted_count == 0

    def test_a_copy_of_an_older_epoch_is_void(self, run: Run, shop: Billing) -> None:
        shop.container.redis_client.hset(wallet_keys("user-1")[0], "status", "closed")
        shop.container.catalog.start_new_epoch()
        assert run().drifted_count == 0
        # Its totals would stay wrong when it is loaded anew.
        shop.container.redis_client.hincrby(wallet_keys("user-1")[0], "available", 1)
        assert self.corrected(run, shop).detail.startswith("available is 0.000001 off")

    def test_what_cannot_be_corrected_is_left(self, run: Run, shop: Billing, monkeypatch: pytest.MonkeyPatch) -> None:
        def busy(*_: object, **__: object) -> None:
            raise Unavailable

        monkeypatch.setattr(shop.container.loader, "refresh", busy)
        shop.container.redis_client.hset(wallet_keys("user-1")[0], "status", "closed")
        drift = only(done := run())
        assert (drift.repaired, done.repaired, done.adds_up) == (False, 0, False)
        assert drift.detail == "status is closed, not active (not repaired)"

    def test_both_at_once(self, run: Run, shop: Billing) -> None:
        shop.container.redis_client.hincrby(wallet_keys("user-1")[0], "available", 1)
        tamper(shop, "UPDATE wallets SET posted_micros = posted_micros + 1 WHERE user_id = 'user-4'")
        done = run()
        assert [(drift.wallet_id, drift.kind) for drift in done.drifted] == [
            ("user-4", "ledger_sum"),
            ("user-1", "cache"),
            ("user-4", "cache"),
        ]
        assert (done.drifted_count, done.repaired, done.adds_up) == (3, 2, False)
