"""What the drain makes of the spool: each entry by itself, whatever its neighbours are."""

from __future__ import annotations

import json
from typing import Any

import pytest
import sqlalchemy as sa

from app.domain.ends import AcceptedEnd
from app.domain.wallets import Deduction
from app.stores.redis.spool import SPOOL_KEY
from app.stores.spool_entry import VERSION, SpoolEntry, UnreadableEntry
from tests.support import FEATURE, Billing, assert_conserved

# What a request can't do without.
READABLE = {
    "user_id": "user-1",
    "feature_endpoint_id": FEATURE,
    "usage": {"input_tokens": 1, "output_tokens": 4},
}
ASIDE = sa.text("SELECT convert_from(field, 'UTF8') AS field, reason, attempts FROM spool_aside ORDER BY field")


@pytest.fixture
def shop(billing: Billing) -> Billing:
    billing.catalog()
    billing.wallet(tokens=1_000)
    billing.wallet("user-2", tokens=1_000)
    return billing


def without_postgres(shop: Billing, *, remembering: bool = True) -> None:
    """From here on Redis alone takes ends, of users whose wallets it has."""
    services = shop.container
    if not remembering:
        services.redis_client.flushall()
    services.loader.load(["user-1", "user-2"], 0)
    services.postgres_gate.close(ConnectionError("test"))


def drain(shop: Billing) -> int:
    shop.container.watcher.look_at_postgres()
    return shop.container.spool_drain.drain()


def aside(shop: Billing) -> list[Any]:
    with shop.container.engine.connect() as connection:
        return list(connection.execute(ASIDE))


def try_aside_again(shop: Billing) -> int:
    shop.execute_in_postgres("UPDATE spool_aside SET tried_at = now() - interval '1 hour'")
    return shop.container.spool_drain.drain()


def keep(shop: Billing, field: str | bytes, text: str | bytes) -> None:
    shop.container.redis_client.hset(SPOOL_KEY, field, text)  # type: ignore[arg-type]


def spooled(shop: Billing) -> SpoolEntry:
    [entry] = shop.container.spool.take(10)
    return entry


def changed(entry: SpoolEntry, **fields: Any) -> bytes:
    return json.dumps({**json.loads(entry.text), **fields}).encode()


class TestReusedKeys:
    def test_another_body_under_a_used_key_is_found_out_though_a_neighbour_has_that_body(self, shop: Billing) -> None:
        services = shop.container
        services.end.end(shop.usage(idempotency_key="K2", output_tokens=10))
        services.end.end(shop.usage(idempotency_key="K3", output_tokens=20))
        shop.settle_everything()
        without_postgres(shop, remembering=False)
        services.end.end(shop.usage(idempotency_key="K2", output_tokens=20))
        services.end.end(shop.usage(idempotency_key="K3", output_tokens=20))
        drain(shop)
        [dead] = shop.inbox()
        assert (dead.state, dead.last_error, dead.cost_micros) == ("dead", "idempotency_key_reused", 5_500_000)
        assert sorted(row.cost_micros for row in shop.ledger()[1:]) == [2_750_000, 5_500_000]
        assert services.spool.size() == 0
        # Nor does its owner meet the other body when it sends the first again.
        again = services.end.end(shop.usage(idempotency_key="K2", output_tokens=10))
        assert (again.replayed, again.cost_micros) == (True, 2_750_000)
        assert_conserved(shop, "user-1")

    def test_of_two_keys_that_belong_to_two_ends_either_refuses(self, shop: Billing) -> None:
        services = shop.container
        services.end.end(shop.usage(idempotency_key="key", process_id=None))
        services.end.end(shop.usage(idempotency_key=None, process_id="process"))
        without_postgres(shop, remembering=False)
        services.end.end(shop.usage(idempotency_key="key", process_id="process"))
        drain(shop)
        shop.settle_everything()
        [dead] = shop.inbox()
        assert (dead.state, dead.last_error) == ("dead", "idempotency_key_reused")

    def test_a_key_that_another_user_has_used_is_put_aside_for_its_own_user(self, shop: Billing) -> None:
        services = shop.container
        services.end.end(shop.usage("user-1", idempotency_key="key"))
        without_postgres(shop, remembering=False)
        services.end.end(shop.usage("user-2", idempotency_key="key"))
        drain(shop)
        [dead] = shop.inbox("user-2")
        assert (dead.state, dead.last_error) == ("dead", "idempotency_key_reused")

    def test_a_body_that_only_a_newer_version_can_compare_waits_for_it(self, shop: Billing) -> None:
        services = shop.container
        services.end.end(shop.usage(idempotency_key="key"))
        shop.settle_everything()
        shop.execute_in_postgres("UPDATE end_keys SET payload_hash = '9:abc'")
        without_postgres(shop, remembering=False)
        services.end.end(shop.usage(idempotency_key="key"))
        services.end.end(shop.usage(idempotency_key="neighbour"))
        drain(shop)
        [waiting] = aside(shop)
        assert waiting.reason == "newer_payload"
        assert services.spool.size() == 0
        assert len(shop.ledger()) == 3
        # The newer version, which knows the hash.
        shop.execute_in_postgres(f"UPDATE end_keys SET payload_hash = '{shop.usage().payload_hash}'")
        try_aside_again(shop)
        assert aside(shop) == []
        assert shop.inbox() == []
        assert len(shop.ledger()) == 3


class TestAside:
    @pytest.mark.parametrize(
        "text",
        [
            b"",
            b"not json",
            b"\xff\xfe\x00",
            b"[]",
            b"null",
            b"{}",
            b'{"version": 1}',
            b'{"version": 999}',
            b"[" * 100_000,
            # Halves of surrogate pairs, which JSON can hold and nothing else takes.
            rb'{"version": 1, "request": {"\ud800": 1}, "price": {}}',
        ],
        ids=lambda text: repr(text[:12]),
    )
    def test_what_cannot_be_read_is_put_aside_alone(self, shop: Billing, text: bytes) -> None:
        without_postgres(shop)
        for _ in range(3):
            shop.container.end.end(shop.usage())
        keep(shop, "0-first", text)
        keep(shop, b"\xff-last", text)
        assert drain(shop) == 3
        assert shop.container.spool.size() == 0
        assert len(shop.ledger()) == 4
        with shop.container.engine.connect() as connection:
            kept = connection.execute(sa.text("SELECT field, entry FROM spool_aside ORDER BY field")).all()
        assert [(bytes(row.field), bytes(row.entry)) for row in kept] == [(b"0-first", text), (b"\xff-last", text)]
        assert_conserved(shop, "user-1")

    @pytest.mark.parametrize(
        "change",
        [
            {"unheard_of": 1},
            {"version": VERSION + 1},
            {"price": {"base_micros": "10", "profit_micros": 1}},
            {"price": {"base_micros": 2**70, "profit_micros": 1}},
            {"price": {"base_micros": -10, "profit_micros": 1}},
            {"price": {}},
            {"request": {**READABLE, "model": "\ud800"}},
            {"request": {**READABLE, "user_id": "\ud800"}},
            {"request": {**READABLE, "user_id": "nul \0"}},
            {"request": {}},
            {"deduction": "maybe"},
        ],
        ids=str,
    )
    def test_an_end_that_cannot_be_recorded_waits_aside_until_it_can(
        self, shop: Billing, change: dict[str, Any]
    ) -> None:
        without_postgres(shop)
        shop.container.end.end(shop.usage(idempotency_key="newer"))
        entry = spooled(shop)
        keep(shop, entry.field, changed(entry, **change))
        for _ in range(5):
            shop.container.end.end(shop.usage("user-2"))
        assert drain(shop) == 5
        assert shop.container.spool.size() == 0
        [waiting] = aside(shop)
        assert (waiting.field, waiting.attempts) == (entry.field.decode(), 1)
        assert shop.balance("user-2").posted_micros == 945_000_000
        # Its tokens stay taken from what can be spent.
        assert shop.cached_spendable_micros() == 989_000_000
        assert shop.container.cache_audit.look(["user-1"]) == {}

        assert try_aside_again(shop) == 0
        assert [row.attempts for row in aside(shop)] == [2]
        with shop.container.engine.begin() as connection:
            # What a version makes of it that can read it.
            connection.execute(sa.text("UPDATE spool_aside SET entry = :entry"), {"entry": entry.text})
        assert try_aside_again(shop) == 1
        assert aside(shop) == []
        assert shop.balance().posted_micros == 989_000_000
        assert shop.cached_spendable_micros() == 989_000_000
        assert_conserved(shop, "user-1", "user-2")

    def test_an_end_that_postgres_refuses_is_found_among_many(self, shop: Billing) -> None:
        without_postgres(shop)
        shop.container.end.end_all([shop.usage(idempotency_key=f"end-{i}") for i in range(40)])
        shop.execute_in_postgres("""
            CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN RAISE EXCEPTION 'not this one'; END $$;
            CREATE TRIGGER refuse BEFORE INSERT ON end_inbox FOR EACH ROW
            WHEN (NEW.idempotency_key = 'end-17') EXECUTE FUNCTION refuse()
        """)
        try:
            assert drain(shop) == 39
        finally:
            shop.execute_in_postgres("DROP TRIGGER refuse ON end_inbox; DROP FUNCTION refuse")
        [waiting] = aside(shop)
        assert "not this one" in waiting.reason
        assert try_aside_again(shop) == 1
        assert aside(shop) == []
        assert len(shop.ledger()) == 41
        assert_conserved(shop, "user-1")

    def test_a_locked_wallet_holds_up_its_own_reused_key_only(self, shop: Billing) -> None:
        services = shop.container
        services.end.end(shop.usage(idempotency_key="used"))
        shop.settle_everything()
        without_postgres(shop, remembering=False)
        services.end.end(shop.usage(idempotency_key="used", output_tokens=80))
        for _ in range(5):
            services.end.end(shop.usage("user-2"))
        with services.engine.begin() as somebody:
            somebody.execute(sa.text("SELECT 1 FROM wallets WHERE user_id = 'user-1' FOR UPDATE"))
            drain(shop)
            assert services.spool.size() == 0
            assert shop.balance("user-2").posted_micros == 945_000_000
            assert len(aside(shop)) == 1
        try_aside_again(shop)
        assert aside(shop) == []
        [dead] = shop.inbox()
        assert (dead.state, dead.last_error) == ("dead", "idempotency_key_reused")

    def test_an_entry_put_aside_before_the_drain_could_clear_the_spool_is_kept_once(self, shop: Billing) -> None:
        keep(shop, "field", "garbage")
        drain(shop)
        keep(shop, "field", "garbage")
        drain(shop)
        [waiting] = aside(shop)
        assert waiting.attempts == 2


@pytest.mark.parametrize(
    "field", ["7", "9f0c1d52-6d1f-4a86-9a6e-2f5a4f0f7f11", f"{'f' * 8}-{'f' * 4}-7{'f' * 3}-8{'f' * 3}-{'f' * 12}"]
)
def test_an_id_that_tells_no_moment_is_put_aside(shop: Billing, field: str) -> None:
    without_postgres(shop)
    shop.container.end.end(shop.usage())
    keep(shop, field, spooled(shop).text)
    assert drain(shop) == 1
    assert [row.field for row in aside(shop)] == [field]


def test_an_entry_is_read_as_it_was_written(shop: Billing) -> None:
    without_postgres(shop)
    shop.container.end.end(shop.usage(idempotency_key="kéy", process_id=None))
    entry = spooled(shop)
    end = entry.read()
    assert isinstance(end, AcceptedEnd)
    assert (end.request.idempotency_key, end.deduction) == ("kéy", Deduction.COVERED)
    assert SpoolEntry.of(end) == entry
    with pytest.raises(UnreadableEntry):
        SpoolEntry(entry.field, changed(entry, spendable_micros=None)).read()
