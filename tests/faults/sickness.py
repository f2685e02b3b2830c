"""Faults that kill nothing: a store that answers and refuses, a wallet that is locked or deep in debt, a wrong clock,
an unreadable entry. Each may delay what it affects, and nothing else.
"""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from threading import Thread

import httpx
import psycopg
from psycopg import sql
from redis import RedisError

from stack.processes import until
from tests.faults import trouble
from tests.faults.auditor import SPOOL
from tests.faults.book import End, TopUp
from tests.faults.load import Caller, end_body
from tests.faults.scene import Scene

# Longer than a bystander may wait where the web processes settle.
REFUSING_SECONDS, REFUSING_SECONDS_SHORT = 10.0, 5.0
LOCKED_SECONDS, LOCKED_SECONDS_SHORT = 12.0, 4.0
LOCKED_TOP_UPS = 40
# Upper bound of the time until every process has noticed that its store refuses writes.
NOTICED_SECONDS_MAX = 2.5
SKEWS_SECONDS = (-2, -3_600, -86_400, 86_400)
# Beat's start plus the sweep's interval.
SWEPT_SECONDS_MAX = 20.0
STORM_DEBTS, STORM_DEBTS_SHORT = 2_000, 500
STORM_TOP_UPS, STORM_TOP_UPS_SHORT = 50, 20
# One message for each wallet that got tokens, plus those of the clients' own calls.
STORM_MESSAGES_MAX = 300
PAID_SECONDS_MAX = 5.0
SERVED_SECONDS_MAX = 15.0
BATCH_ENDS = 500
OLDER_USERS = ("forgotten", "sent-again")
POISON_ENTRIES = (b"", b"not json", b"\xff\xfe", b"{}", b"[1]", b'{"version": 99, "request": {}}', b"[" * 5_000)


# A store that refuses ----------------------------------------------------------------------------------


def refuse_writes(scene: Scene) -> None:
    """Postgres answers but takes no write, as a demoted primary."""
    scene.without_postgres()
    _alter_postgres(scene, "default_transaction_read_only", "on")
    scene.note("postgres is read-only")
    _expect_noticed(scene, "postgres")
    time.sleep(scene.seconds(REFUSING_SECONDS, REFUSING_SECONDS_SHORT))

    def allow() -> None:
        _alter_postgres(scene, "default_transaction_read_only", None)
        scene.note("postgres takes writes again")

    scene.later(allow)


def fill_redis(scene: Scene) -> None:
    """Redis has no memory left: it answers reads, and refuses writes with OOM."""
    with _redis_settings(scene, "redis is full", maxmemory=1):
        _expect_noticed(scene, "redis")
        time.sleep(scene.seconds(REFUSING_SECONDS, REFUSING_SECONDS_SHORT))


def demote_redis(scene: Scene) -> None:
    """Redis becomes a replica (READONLY), or lacks a replica that it needs (NOREPLICAS)."""
    if not scene.is_short and scene.rng.random() < 0.5:
        with _redis_settings(scene, "redis lacks its replicas", **{"min-replicas-to-write": 1}):
            _expect_noticed(scene, "redis")
            time.sleep(REFUSING_SECONDS)
        return
    with scene.stack.redis_client() as client:
        # A replica of a server that doesn't exist, so that its data stay as they are.
        client.replicaof("127.0.0.1", "1")
        scene.note("redis is a replica")
        try:
            _expect_noticed(scene, "redis")
            time.sleep(scene.seconds(REFUSING_SECONDS, REFUSING_SECONDS_SHORT))
        finally:
            client.replicaof("NO", "ONE")
            scene.note("redis is a primary again")


@contextmanager
def _redis_settings(scene: Scene, what: str, **settings: int) -> Iterator[None]:
    with scene.stack.redis_client() as client:
        for name, value in settings.items():
            client.config_set(name, value)
        scene.note(what)
        try:
            yield
        finally:
            for name in settings:
                client.config_set(name, 0)
            scene.note("redis takes writes again")


def _alter_postgres(scene: Scene, name: str, value: str | None) -> None:
    with scene.stack.connect() as connection:
        setting = sql.Identifier(name)
        if value is None:
            connection.execute(sql.SQL("ALTER SYSTEM RESET {}").format(setting))
        else:
            connection.execute(sql.SQL("ALTER SYSTEM SET {} = {}").format(setting, sql.Literal(value)))
        connection.execute("SELECT pg_reload_conf()")


def _expect_noticed(scene: Scene, store: str) -> None:
    """Each API must report that it doesn't use the store."""
    for i in range(len(scene.stack.api_urls)):
        if not until(lambda i=i: _is_in_use(scene, i, store) is False, NOTICED_SECONDS_MAX, 0.1):  # type: ignore[misc]
            scene.book.violate("blind", f"api-{i} calls {store} up though it takes no write")


def _is_in_use(scene: Scene, api: int, store: str) -> bool | None:
    """Whether an API reports the store as up; None when it doesn't answer."""
    try:
        response = httpx.get(f"{scene.stack.api_urls[api]}/readyz", timeout=2)
    except httpx.TransportError:
        return None
    return bool(response.json()["dependencies"][store] == "up")


def fail_over_to_an_older_copy(scene: Scene) -> None:
    """Postgres is replaced by an older copy, as after a fail-over that lost the last commits.

    Some ends of two wallets are lost with it. Everything else has to go on by itself, with cached wallets void. All
    ends of one of the two wallets are sent again, and billed again. For the other wallet only the new cache epoch voids
    its cached copy.
    """
    stack = scene.stack
    cluster, copy = stack.postgres.folder, stack.postgres.data_dir / "cluster-older"
    with scene.quiet():
        scene.without_postgres()
        stack.postgres.stop()
        shutil.copytree(cluster, copy)
        stack.postgres.start()
        # A process that sees another Redis begins a new epoch, which the older copy doesn't know of.
        stack.redis.kill()
        stack.redis.start()
        ends = [End(f"{user}-{scene.number}-{i}", user, 40) for user in OLDER_USERS for i in range(5)]
        until(lambda: all(_is_accepted(scene.caller, end) for end in ends), SERVED_SECONDS_MAX, 0.2)
        if not _await_settled(scene, [end.key for end in ends], SERVED_SECONDS_MAX):
            scene.book.violate("stuck", "with another Redis nothing is settled")
        # The cached copies that are to become void must exist: the first ends may have been decided without Redis.
        if not until(lambda: all(_is_cached(scene, user) for user in OLDER_USERS), SERVED_SECONDS_MAX, 0.2):
            scene.book.violate("stuck", "with another Redis no wallet is cached")
        # Ends still in the spool when Postgres loses them would be billed after all.
        if not until(lambda: _is_spool_empty(scene), SERVED_SECONDS_MAX, 0.2):
            scene.book.violate("stuck", "with another Redis the spool isn't drained")
        stack.postgres.kill()
        shutil.rmtree(cluster)
        copy.rename(cluster)
        stack.postgres.start()
        scene.note("postgres fails over to an older copy")
        again = [scene.book.add_end(end) for end in ends if end.user_id == "sent-again"]
        if not until(lambda: all(_is_answered(scene.caller, end) for end in again), SERVED_SECONDS_MAX, 0.2):
            scene.book.violate("stuck", "with an older Postgres no end is taken", again[0].key)


def _is_cached(scene: Scene, user_id: str) -> bool:
    scene.caller.start(user_id)
    with scene.stack.redis_client() as client:
        return bool(client.hexists(f"tokentill:{{{user_id}}}:wallet", "epoch"))


def _is_spool_empty(scene: Scene) -> bool:
    with scene.stack.redis_client() as client:
        return not client.hlen(SPOOL)


def _is_accepted(caller: Caller, end: End) -> bool:
    return caller.call("/api/token-process/end", end_body(end), key=end.key)[0] == 200


def _is_answered(caller: Caller, end: End) -> bool:
    caller.send_end(end)
    return not end.is_open


def terminate_backends(scene: Scene) -> None:
    """Postgres stays up, but all connections to it are terminated several times."""
    scene.without_postgres()
    with scene.stack.connect() as connection:
        for _ in range(scene.rng.randint(2, 4)):
            query = """
                SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
                WHERE backend_type = 'client backend' AND application_name <> %s
            """
            row = connection.execute(query, [scene.stack.application_name]).fetchone()
            scene.note(f"{row and row[0]} backends terminated")
            time.sleep(scene.rng.uniform(0.2, 0.8))


# One wallet --------------------------------------------------------------------------------------------


def lock_wallet(scene: Scene) -> None:
    """Another session holds the row of a wallet that every client uses, and many calls wait for it."""
    connection = scene.stack.connect()
    connection.execute("BEGIN")
    connection.execute("SELECT 1 FROM wallets WHERE user_id = 'hot' FOR UPDATE")
    scene.note("the wallet of hot is locked")
    threads = []
    for i in range(LOCKED_TOP_UPS):
        top_up = scene.book.add_top_up(TopUp(f"locked-{scene.number}-{i}", "hot", 1))
        threads.append(Thread(target=_send_alone, args=(scene, top_up, i), daemon=True))
    for thread in threads:
        thread.start()
    until_seconds = time.monotonic() + scene.seconds(LOCKED_SECONDS, LOCKED_SECONDS_SHORT)
    while time.monotonic() < until_seconds:
        for api in range(len(scene.stack.api_urls)):
            if _is_in_use(scene, api, "postgres") is False:
                scene.book.violate("gate", f"api-{api} calls Postgres away as one row of it is locked")
                until_seconds = 0
        time.sleep(0.25)

    def unlock() -> None:
        connection.close()
        scene.note("the wallet of hot is free again")
        for thread in threads:
            thread.join(20)

    scene.later(unlock)


def _send_alone(scene: Scene, top_up: TopUp, seed: int) -> None:
    caller = Caller(scene.book, scene.stack.api_urls, random.Random(seed))
    caller.send_top_up(top_up)
    caller.close()


def raise_a_storm_of_retries(scene: Scene) -> None:
    """A wallet with very many debts gets top-up after top-up, none of which covers a debt."""
    debts = int(scene.seconds(STORM_DEBTS, STORM_DEBTS_SHORT))
    for start in range(0, debts, BATCH_ENDS):
        keys = [f"storm-{scene.number}-{i}" for i in range(start, start + BATCH_ENDS)]
        scene.caller.send_batch([scene.book.add_end(End(key, "storm", 40)) for key in keys])
    neighbour = scene.book.add_end(End(f"neighbour-{scene.number}", "storm-neighbour", 40))
    until(partial(_is_answered, scene.caller, neighbour), 10, 0.1)
    scene.note(f"{debts} debts of storm")
    most = 0
    with scene.stack.redis_client() as client:
        for i in range(int(scene.seconds(STORM_TOP_UPS, STORM_TOP_UPS_SHORT))):
            scene.caller.send_top_up(scene.book.add_top_up(TopUp(f"storm-{scene.number}-{i}", "storm", 1)))
            most = max(most, trouble.messages_waiting(client))
        paid = TopUp(f"neighbour-{scene.number}", "storm-neighbour", 11)
        scene.caller.send_top_up(scene.book.add_top_up(paid))
        settled = _await_settled(scene, [neighbour.key], PAID_SECONDS_MAX)
        most = max(most, trouble.messages_waiting(client))
    scene.note(f"at most {most} messages waited")
    if not settled:
        scene.book.violate("starved", f"a debt that was paid stands after {PAID_SECONDS_MAX} s", neighbour.key)
    if most > STORM_MESSAGES_MAX:
        scene.book.violate("storm", f"{most} messages for the credits of one wallet")


# One clock, one entry ----------------------------------------------------------------------------------


def skew_beat(scene: Scene) -> None:
    """Beat's clock is off. The sweep still finds ends that no message announced."""
    beat = scene.stack.beat
    seconds = scene.rng.choice(SKEWS_SECONDS)
    beat.kill()
    scene.stack.start_skewed(beat, seconds)
    scene.note(f"beat runs with its clock {seconds:+} s off")
    ends = [scene.book.add_end(End(f"unheard-{scene.number}-{i}", "unheard", 40)) for i in range(5)]
    trouble.accept_silently(scene.stack.postgres.url, ends)
    if not _await_settled(scene, [end.key for end in ends], SWEPT_SECONDS_MAX):
        scene.book.violate("stuck", f"with beat {seconds:+} s off nothing is swept", ends[0].key)

    def restore() -> None:
        beat.kill()
        beat.start()

    scene.later(restore)


def poison_spool(scene: Scene) -> None:
    """Unreadable entries are put into the spool, first alone and then beside good ones; and keys are reused while
    nobody can know.
    """
    first, second = (
        scene.book.add_end(End(f"spooled-{scene.number}-{i}", "spooled", tokens)) for i, tokens in enumerate((40, 80))
    )
    for end in (first, second):
        until(partial(_is_answered, scene.caller, end), 10, 0.1)
    _poison(scene, "before")
    time.sleep(1.5)
    scene.without_postgres()
    scene.stack.proxy.refuse()
    scene.note("postgres refuses connections")
    _poison(scene, "beside")
    with suppress(RedisError), scene.stack.redis_client() as client:
        for end in (first, second):
            client.delete(f"tokentill:{{spooled}}:key:{end.key}")
    # The second end's body under the first end's key; then under its own key, which is only a repeat.
    until(lambda: scene.caller.contradict(first, second.output_tokens, knew_keys=False) == 200, 5, 0.1)
    scene.caller.send_end(second)
    time.sleep(scene.seconds(4, 1.5))

    def allow() -> None:
        scene.stack.proxy.allow()
        scene.note("postgres takes connections again")

    scene.later(allow)


def _poison(scene: Scene, name: str) -> None:
    entries = {f"poison-{name}-{scene.number}-{i}": text for i, text in enumerate(POISON_ENTRIES)}
    with suppress(RedisError), scene.stack.redis_client() as client:
        client.hset(SPOOL, mapping=entries)  # type: ignore[arg-type]
        scene.book.poisoned_entries |= entries.keys()
        scene.note(f"{len(entries)} poisoned entries in the spool")


def _await_settled(scene: Scene, keys: list[str], seconds: float) -> bool:
    """Whether all these ends are in the ledger within this many seconds."""
    with scene.stack.connect() as connection:
        return until(partial(_are_settled, connection, keys), seconds, 0.1)


def _are_settled(connection: psycopg.Connection[tuple[int]], keys: list[str]) -> bool:
    query = "SELECT count(*) FROM token_transactions WHERE kind = 'usage' AND reference = ANY(%s)"
    return connection.execute(query, [keys]).fetchone() == (len(keys),)
