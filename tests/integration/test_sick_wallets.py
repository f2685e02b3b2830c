"""One wallet that is locked, owes more than anybody can count, or can't be read: its neighbours notice nothing."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

import pytest
import sqlalchemy as sa

from app.billing import settle
from app.billing.start import StartRequest
from app.bootstrap import Container
from app.domain.amounts import DEBT_MICROS_MAX
from app.domain.bulk_actions import BulkKind
from app.domain.ends import EndAnswer
from app.domain.errors import TooSlow, Unavailable, WalletBusy
from app.domain.failed_ends import Filter
from app.domain.keys import Caller
from app.domain.postings import Posting, PostingKind
from app.domain.pricing import price
from app.domain.usage import Usage
from app.domain.wallets import Access, Deduction
from app.operations.bulk_actions import Asked
from app.stores.postgres import inbox, settlement
from app.stores.postgres.debts import IndebtedWallet
from app.stores.redis.scripts import WalletScript
from app.stores.redis.slices import ITEMS_PER_CALL
from tests.support import FEATURE, Billing, assert_conserved, collect_now

# Of a slice: two for each mark, and some about the wallet.
ARGUMENTS_MAX = 2 * ITEMS_PER_CALL + 20


@pytest.fixture
def shop(billing: Billing) -> Billing:
    billing.catalog(basis_points=0)
    billing.wallet("neighbour", tokens=1_000)
    return billing


@contextmanager
def locked(shop: Billing, user_id: str) -> Iterator[None]:
    """Somebody holds the wallet's row by hand."""
    with shop.container.engine.connect() as connection:
        connection.execute(sa.text("SELECT 1 FROM wallets WHERE user_id = :id FOR UPDATE"), {"id": user_id})
        yield


def owe(shop: Billing, user_id: str, ends: int, output_tokens: int = 4, *, told: bool = True) -> None:
    """Give a wallet so many debts, as settlement leaves them (or, not told, as acceptance does)."""
    micros = price(Usage(1, output_tokens), None, None).cost_micros
    with shop.container.engine.begin() as connection:
        connection.execute(
            sa.text("""
                INSERT INTO end_inbox (id, wallet_id, user_id, feature_endpoint_id, input_tokens, output_tokens,
                    cost_micros, base_cost_micros, profit_micros, state, attempts, last_error, is_debt)
                SELECT CAST(lpad(to_hex(i), 32, '0') AS uuid), :user_id, :user_id, :feature, 1, :output, :micros,
                    :micros, 0, 'retrying', 1, 'insufficient_tokens', :told
                FROM generate_series(1, :ends) AS i
            """),
            {
                "user_id": user_id,
                "feature": FEATURE,
                "output": output_tokens,
                "micros": micros,
                "ends": ends,
                "told": told,
            },
        )
        if told:
            connection.execute(
                sa.text("UPDATE wallets SET debt_micros = :micros, collect_at = now() + '1 hour' WHERE user_id = :id"),
                {"micros": micros * ends, "id": user_id},
            )
    with shop.container.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(sa.text("ANALYZE end_inbox"))


def top_up(shop: Billing, user_id: str, tokens: int) -> None:
    shop.container.postings.post(Posting(user_id, PostingKind.TOP_UP, tokens * 1_000_000, uuid4().hex))


@pytest.fixture
def most_arguments(shop: Billing, monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """How many arguments a script has had at most: what it works on, as no script looks at more of a wallet itself."""
    sizes = [0]
    send = shop.container.scripts.send

    def counted(script: WalletScript, calls: Sequence[tuple[list[str], list[Any]]], *rest: Any) -> list[Any]:
        sizes.extend(len(arguments) for _, arguments in calls)
        return send(script, calls, *rest)

    monkeypatch.setattr(shop.container.scripts, "send", counted)
    return lambda: max(sizes)


class TestLocked:
    def test_settlement_takes_what_it_can_lock(self, shop: Billing) -> None:
        shop.wallet("locked")
        users = ["locked", "neighbour"] * 20
        shop.container.end.end_all([shop.usage(user) for user in users])
        with locked(shop, "locked"):
            shop.settle_everything()
            assert len(shop.inbox("locked")) == 20
            assert shop.inbox("neighbour") == []
        shop.settle_everything()
        assert shop.inbox("locked") == []
        assert_conserved(shop, "locked", "neighbour")

    def test_a_message_waits_a_moment_for_a_wallet_in_use(self, shop: Billing) -> None:
        shop.container.end.end_all([shop.usage("neighbour")])
        ids = [end.id for end in shop.inbox("neighbour")]
        is_locked = threading.Event()

        def hold() -> None:
            with locked(shop, "neighbour"):
                is_locked.set()
                time.sleep(0.04)

        holder = threading.Thread(target=hold)
        holder.start()
        is_locked.wait()
        assert shop.container.settlement.settle(ids).settled == 1
        holder.join()

    def test_a_wallet_that_stays_locked_is_waited_for_once(
        self, shop: Billing, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        shop.wallet("locked")
        shop.container.end.end_all([shop.usage(user) for user in ("locked", "neighbour") for _ in range(20)])
        ids = {user: [end.id for end in shop.inbox(user)] for user in ("locked", "neighbour")}
        pauses: list[float] = []
        monkeypatch.setattr(settle.time, "sleep", pauses.append)
        with locked(shop, "locked"):
            for i in range(10):
                report = shop.container.settlement.settle([ids["locked"][i], ids["neighbour"][i]])
                assert report.settled == 1
        assert pauses == list(settle.BUSY_PAUSES_SECONDS)

    def test_the_sweep_comes_past_a_locked_wallet_with_more_ends_than_a_batch(self, shop: Billing) -> None:
        shop.wallet("locked", tokens=100_000)
        for _ in range(5):
            shop.container.end.end_all([shop.usage("locked", output_tokens=4) for _ in range(500)])
        shop.container.end.end(shop.usage("neighbour"))
        with locked(shop, "locked"):
            shop.settle_everything()
            assert shop.inbox("neighbour") == []
            assert len(shop.inbox("locked")) == 2_500

    def test_its_debts_wait(self, shop: Billing) -> None:
        shop.wallet("locked", tokens=0)
        owe(shop, "locked", 3)
        shop.execute_in_postgres("UPDATE wallets SET posted_micros = 9000000, collect_at = now()")
        with locked(shop, "locked"):
            assert shop.container.collection.due_wallets(10) == [IndebtedWallet("neighbour", 0)]
            assert shop.container.collection.collect("locked", seconds=1).report.settled == 0
        assert shop.container.collection.collect("locked", seconds=1).report.settled == 3

    def test_replays_of_it_take_no_connections_from_others(self, shop: Billing) -> None:
        shop.wallet("locked", tokens=0)
        owe(shop, "locked", 40)
        ids = [end.id for end in shop.inbox("locked")]
        with locked(shop, "locked"), ThreadPoolExecutor(40) as pool:
            replays = [pool.submit(shop.container.failed_ends.replay, end_id) for end_id in ids]
            time.sleep(0.2)
            asked = time.monotonic()
            top_up(shop, "neighbour", 1)
            assert time.monotonic() - asked < 0.5
            assert {type(replayed.exception(timeout=10)) for replayed in replays} == {WalletBusy}
        assert shop.container.failed_ends.replay(ids[0]).attempts == 0

    def test_a_replay_of_many_leaves_out_its_ends_and_says_so(self, shop: Billing) -> None:
        shop.wallet("locked", tokens=0)
        shop.wallet("neighbour-2", tokens=0)
        owe(shop, "locked", 3)
        shop.container.end.end_all([shop.usage("neighbour-2"), shop.usage("neighbour-2")])
        bulk = shop.container.bulk_actions
        drafted, _ = bulk.draft(Asked(BulkKind.REPLAY, Filter(), {}, "r", "All again", Caller("ops")))
        action = drafted.action
        bulk.confirm(action.id, ends=action.ends, cost_micros=action.cost_micros, caller=Caller("ops"))
        with locked(shop, "locked"):
            bulk.work_off(seconds=5)
            view = bulk.get(action.id)
            assert (view.action.state, view.figures.open, view.figures.awaited) == ("running", 5, 2)
        bulk.work_off(seconds=5)
        assert bulk.get(action.id).figures.awaited == 5

    def test_who_locks_what_notes_its_stale_copy_delays_nobody(self, shop: Billing) -> None:
        shop.wallet("locked")
        shop.execute_in_postgres("INSERT INTO stale_notes (wallet_ids) VALUES (ARRAY['locked'])")
        shop.container.end.end_all([shop.usage(user) for user in ("locked", "neighbour")])
        with shop.container.engine.connect() as operator:
            operator.execute(sa.text("SELECT 1 FROM stale_notes FOR UPDATE"))
            began = time.monotonic()
            shop.settle_everything()
            assert (shop.inbox("locked"), shop.inbox("neighbour")) == ([], [])
            shop.container.stale_copies.refresh(older_than_seconds=0)
            assert time.monotonic() - began < 1
        assert shop.container.stale_copies.refresh(older_than_seconds=0) == 1
        assert shop.container.stale_copies.refresh(older_than_seconds=0) == 0

    def test_who_steps_in_for_the_workers_comes_past_it(self, shop: Billing) -> None:
        shop.wallet("locked", tokens=0)
        owe(shop, "locked", 1)
        shop.wallet("other", tokens=0)
        shop.container.end.end(shop.usage("other", output_tokens=4))
        shop.settle_everything()
        shop.execute_in_postgres("UPDATE wallets SET posted_micros = 9000000 WHERE user_id IN ('locked', 'other')")
        shop.execute_in_postgres("UPDATE wallets SET collect_at = now() - interval '9 s' WHERE user_id = 'locked'")
        shop.execute_in_postgres("UPDATE wallets SET collect_at = now() WHERE user_id = 'other'")
        shop.container.redis_gate.close(ConnectionError("test"))
        with locked(shop, "locked"):
            shop.container.watcher.step_in()
        assert (len(shop.inbox("locked")), shop.inbox("other")) == (1, [])


class TestManyDebts:
    def test_a_top_up_costs_the_same_and_each_transaction_takes_a_bounded_part(
        self, shop: Billing, most_arguments: Callable[[], int], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        shop.wallet("deep", tokens=0)
        owe(shop, "deep", 20_000)
        sizes: list[int] = []
        settle_ends = settlement.settle

        def counted(connection: sa.Connection, ids: list[object], *rest: object, **named: object) -> object:
            sizes.append(len(ids))
            return settle_ends(connection, ids, *rest, **named)  # type: ignore[arg-type]

        monkeypatch.setattr(settlement, "settle", counted)
        top_up(shop, "deep", 20_000 + 5)
        assert shop.container.start.start(StartRequest("deep", FEATURE)).access is Access.DENIED
        rounds = 0
        while shop.container.collection.collect("deep", seconds=0.1).unfinished is not None:
            rounds += 1
            # In between there is room for others.
            shop.container.end.end(shop.usage("neighbour", output_tokens=4))
            shop.settle_everything()
        assert rounds > 1
        assert max(sizes) == 1_000
        assert shop.inbox("deep") == []
        assert (shop.balance("deep").posted_micros, shop.balance("deep").debt_micros) == (5_000_000, 0)
        assert shop.container.start.start(StartRequest("deep", FEATURE)).spendable_micros == 5_000_000
        assert_conserved(shop, "deep", "neighbour")
        assert most_arguments() < ARGUMENTS_MAX

    def test_many_that_the_wallet_does_not_know_of_yet_are_loaded_in_slices(
        self, shop: Billing, most_arguments: Callable[[], int]
    ) -> None:
        shop.wallet("deep", tokens=0)
        owe(shop, "deep", 20_000, told=False)
        answer = shop.container.end.end(shop.usage("deep", output_tokens=4))
        assert answer.spendable_micros == -20_001 * 1_000_000
        assert shop.cached_spendable_micros("deep") == -20_001 * 1_000_000
        shop.settle_everything()
        assert shop.balance("deep").debt_micros == 20_001 * 1_000_000
        assert shop.cached_spendable_micros("deep") == -20_001 * 1_000_000
        assert shop.container.redis_client.hlen("tokentill:{deep}:wallet") < 12
        shop.container.loader.refresh(["deep"])
        assert most_arguments() < ARGUMENTS_MAX

    def test_marks_are_looked_up_and_forgotten_in_slices(self, shop: Billing) -> None:
        """As after Redis missed the settlement, and as after Postgres lost it."""
        services, ends = shop.container, 2 * ITEMS_PER_CALL + 1
        shop.wallet("deep", tokens=0)
        owe(shop, "deep", ends, told=False)
        services.loader.load(["deep"], services.catalog.epoch)
        services.redis_client.config_resetstat()
        services.cache_audit.look(["deep"])
        shop.execute_in_postgres("UPDATE end_inbox SET is_debt = true")
        shop.execute_in_postgres(f"UPDATE wallets SET debt_micros = {ends}000000, version = 2 WHERE user_id = 'deep'")
        services.loader.refresh(["deep"])
        assert shop.cached_spendable_micros("deep") == -ends * 1_000_000
        services.records.void({"deep": [end.id for end in shop.inbox("deep")]})
        calls: Any = services.redis_client.info("commandstats")
        assert [calls[f"cmdstat_{name}"]["calls"] for name in ("smismember", "sadd")] == [3, 3]

    def test_top_ups_that_pay_nothing_ring_nobody(self, shop: Billing, monkeypatch: pytest.MonkeyPatch) -> None:
        shop.wallet("deep", tokens=0)
        owe(shop, "deep", 2_000, output_tokens=400)
        rung: list[IndebtedWallet] = []
        monkeypatch.setattr(shop.container.doorbell, "collect", rung.extend)
        for _ in range(50):
            top_up(shop, "deep", 1)
        assert rung == []
        for _ in range(60):
            top_up(shop, "deep", 1)
        # 100 tokens pay for the oldest; those after it come while its message is on its way.
        assert [wallet.wallet_id for wallet in rung] == ["deep"]
        assert {end.attempts for end in shop.inbox("deep")} == {1}
        shop.container.collection.collect("deep", seconds=1)
        assert len(shop.inbox("deep")) == 1_999
        assert shop.container.collection.due_wallets(10) == []

    def test_a_try_counts_for_as_many_as_it_looks_at(self, shop: Billing) -> None:
        shop.wallet("deep", tokens=0)
        owe(shop, "deep", 1_500)
        collect_now(shop.container, "deep")
        assert sorted({end.attempts for end in shop.inbox("deep")}) == [1, 2]
        assert sum(end.attempts == 2 for end in shop.inbox("deep")) == 1_000
        # A try that isn't due counts for nobody.
        shop.container.collection.collect("deep", seconds=1)
        assert sum(end.attempts == 2 for end in shop.inbox("deep")) == 1_000

    def test_one_that_the_database_refuses_is_put_aside_alone(self, shop: Billing) -> None:
        shop.wallet("deep", tokens=100)
        owe(shop, "deep", 40)
        poisoned = shop.inbox("deep")[17].id
        shop.execute_in_postgres(f"""
            CREATE FUNCTION refuse_one() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN IF NEW.end_id = '{poisoned}' THEN RAISE EXCEPTION 'never'; END IF; RETURN NEW; END $$;
            CREATE TRIGGER refuse_one BEFORE INSERT ON token_transactions FOR EACH ROW EXECUTE FUNCTION refuse_one();
        """)
        try:
            collect_now(shop.container, "deep")
        finally:
            shop.execute_in_postgres("DROP TRIGGER refuse_one ON token_transactions; DROP FUNCTION refuse_one")
        [dead] = shop.inbox("deep")
        assert (dead.id, dead.state, dead.last_error) == (poisoned, "dead", "database_refused")
        assert shop.balance("deep").debt_micros == dead.cost_micros
        assert_conserved(shop, "deep")

    def test_one_that_takes_too_long_is_counted_and_at_last_put_aside(
        self, shop: Billing, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        shop.wallet("deep", tokens=100)
        owe(shop, "deep", 3)
        slow = shop.inbox("deep")[0].id
        settle_ends = settlement.settle

        def too_slow(connection: sa.Connection, ids: list[object], *rest: object, **named: object) -> object:
            if slow in ids:
                raise TooSlow
            return settle_ends(connection, ids, *rest, **named)  # type: ignore[arg-type]

        monkeypatch.setattr(settlement, "settle", too_slow)
        attempts_max = shop.container.config.retry_attempts_max
        for attempts in range(2, attempts_max):
            collect_now(shop.container, "deep")
            assert [end.attempts for end in shop.inbox("deep")] == [attempts, 1, 1]
        for _ in range(2):
            collect_now(shop.container, "deep")
        [dead] = shop.inbox("deep")
        assert (dead.id, dead.state, dead.last_error) == (slow, "dead", "too_slow")
        assert shop.balance("deep").posted_micros == 98_000_000
        assert_conserved(shop, "deep")


class TestOutOfRange:
    def test_debts_past_the_bound_are_recorded_and_put_aside(self, shop: Billing) -> None:
        shop.wallet("deep", tokens=0)
        shop.execute_in_postgres(
            "INSERT INTO profit_rules (basis_points, effective_from) VALUES (1000000, '2021-01-01Z')"
        )
        shop.announce_catalog()
        answers = shop.container.end.end_all([shop.usage("deep", output_tokens=100_000_000) for _ in range(5)])
        assert all(isinstance(a, EndAnswer) and a.deduction is Deduction.FAILED for a in answers)
        shop.settle_everything()
        cost_micros = 2_525_000_000_000_000
        told = DEBT_MICROS_MAX // cost_micros
        states = [(end.state, end.last_error, end.is_debt) for end in shop.inbox("deep")]
        assert states[:told] == [("retrying", "insufficient_tokens", True)] * told
        assert states[told:] == [("dead", "debt_out_of_range", False)] * (5 - told)
        assert shop.balance("deep").debt_micros == 5 * cost_micros
        assert shop.container.start.start(StartRequest("deep", FEATURE)).access is Access.DENIED
        assert shop.cached_spendable_micros("deep") == -5 * cost_micros
        # What is put aside is replayed once there is room for it.
        aside = shop.inbox("deep")[-1].id
        shop.container.failed_ends.write_off(shop.inbox("deep")[0].id, "Agreed", Caller("me"))
        shop.container.failed_ends.replay(aside)
        shop.settle_everything()
        assert [end.state for end in shop.inbox("deep") if end.id == aside] == ["retrying"]
        assert_conserved(shop, "deep")

    def test_sums_past_64_bits_are_answered_from_postgres(self, shop: Billing) -> None:
        shop.wallet("deep", tokens=0)
        owe(shop, "deep", 1_000, output_tokens=4, told=False)
        shop.execute_in_postgres("UPDATE end_inbox SET cost_micros = 9000000000000000000")
        answers = shop.container.end.end_all([shop.usage("neighbour"), shop.usage("deep"), shop.usage("neighbour")])
        assert [a.deduction if isinstance(a, EndAnswer) else a for a in answers] == [
            Deduction.COVERED,
            Deduction.FAILED,
            Deduction.COVERED,
        ]
        assert shop.container.redis_gate.is_open
        assert shop.container.start.start(StartRequest("deep", FEATURE)).access is Access.DENIED
        assert shop.container.start.start(StartRequest("neighbour", FEATURE)).access is Access.GRANTED

    def test_postgres_going_away_refuses_only_what_it_had_to_decide(
        self, shop: Billing, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        shop.wallet("deep", tokens=0)
        owe(shop, "deep", 1_000, output_tokens=4, told=False)
        shop.execute_in_postgres("UPDATE end_inbox SET cost_micros = 9000000000000000000")

        def away(*_: Any) -> set[Any]:
            raise Unavailable

        monkeypatch.setattr(inbox, "insert", away)
        first, deep, second = shop.container.end.end_all(
            [shop.usage("neighbour"), shop.usage("deep"), shop.usage("neighbour")]
        )
        assert isinstance(first, EndAnswer)
        assert isinstance(second, EndAnswer)
        assert isinstance(deep, Unavailable)
        assert shop.container.spool.size() == 2

    @pytest.mark.parametrize("value", ["many", "", "1.5", str(2**63)])
    def test_a_copy_that_cannot_be_read_is_made_anew(self, shop: Billing, value: str) -> None:
        services: Container = shop.container
        shop.wallet("sick", tokens=100)
        for user in ("sick", "neighbour"):
            services.start.start(StartRequest(user, FEATURE))
        epoch = services.catalog.epoch
        for name in ("available", "posted", "held", "debt", "told"):
            services.redis_client.hset("tokentill:{sick}:wallet", name, value)
            answers = services.end.end_all([shop.usage("neighbour"), shop.usage("sick"), shop.usage("neighbour")])
            assert all(isinstance(answer, EndAnswer) for answer in answers)
            services.redis_client.hset("tokentill:{sick}:wallet", name, value)
            assert services.start.start(StartRequest("sick", FEATURE)).access is Access.GRANTED
        assert services.redis_gate.is_open
        shop.settle_everything()
        services.catalog.refresh()
        assert services.catalog.epoch == epoch
        assert shop.cached_spendable_micros("sick") == shop.balance("sick").posted_micros == 50_000_000
        assert_conserved(shop, "sick", "neighbour")
