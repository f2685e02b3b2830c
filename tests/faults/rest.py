"""Coming to rest: get every open call answered, wait until nothing moves, then check everything."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from typing import Any

import psycopg
from redis import Redis

from stack.processes import until
from tests.faults import auditor, corrections
from tests.faults.book import MICROS, Book, Chargeback, Correction, TopUp, Violation
from tests.faults.load import HOLD_SECONDS_MAX, Caller
from tests.faults.stack_under_test import StackUnderTest

# Longer than a mark without an end is kept, and longer than it takes to send out a lost retry again.
REST_SECONDS_MAX = 90.0
IN_FLIGHT = "tokentill:in-flight"


def audit(stack: StackUnderTest, book: Book, seed: int, supervise: Callable[[], None]) -> list[Violation]:
    """All violations, including those recorded since the last audit. The clients must have paused."""
    caller = Caller(book, stack.api_urls, random.Random(f"{seed}/audit"))
    try:
        come_to_rest(stack, book, caller, supervise)
        with stack.connect() as connection, stack.redis_client() as redis:
            time.sleep(HOLD_SECONDS_MAX)
            _look(book, connection, caller, len(stack.apis))
            found = auditor.check(book, auditor.take(connection, redis))
            if found:
                # A worker may have been between its commit and its update of Redis.
                time.sleep(2)
                found = auditor.check(book, auditor.take(connection, redis))
    finally:
        caller.close()
    found = [*book.violations, *found]
    book.violations.clear()
    return found


def come_to_rest(stack: StackUnderTest, book: Book, caller: Caller, supervise: Callable[[], None]) -> bool:
    """Get every open call answered and wait until nothing moves. False: something still moved after
    REST_SECONDS_MAX.
    """
    _settle_questions(book, caller)
    with stack.connect() as connection, stack.redis_client() as redis:

        def is_at_rest() -> bool:
            supervise()
            return _is_at_rest(connection) and _has_landed(redis)

        return until(is_at_rest, REST_SECONDS_MAX, 0.1)


def _settle_questions(book: Book, caller: Caller) -> None:
    """Repeat, with the same keys, every call that was never answered."""
    deadline = time.monotonic() + REST_SECONDS_MAX
    while (ends := book.open_ends()) or any(_other_questions(book)):
        for end in ends:
            caller.send_end(end)
        for top_up in book.open_top_ups():
            caller.send_top_up(top_up)
        for correction in book.open_corrections():
            corrections.send(caller, correction)
        for chargeback in book.open_chargebacks():
            corrections.send_chargeback(caller, chargeback)
        if time.monotonic() > deadline:
            unanswered = [*(end.key for end in book.open_ends())]
            unanswered += [each.reference for questions in _other_questions(book) for each in questions]
            text = f"{len(unanswered)} calls get no definite answer, first {unanswered[:3]}"
            book.violate("unanswered", text, unanswered[0] if unanswered else None)
            return
        time.sleep(0.2)


def _other_questions(book: Book) -> tuple[Sequence[Correction | Chargeback | TopUp], ...]:
    """Open calls that aren't ends."""
    return book.open_corrections(), book.open_chargebacks(), book.open_top_ups()


def _is_at_rest(connection: psycopg.Connection[Any]) -> bool:
    row = connection.execute("""
        SELECT NOT EXISTS (SELECT 1 FROM end_inbox WHERE state = 'accepted')
            AND NOT EXISTS (SELECT 1 FROM stale_notes WHERE noted_at < now() - interval '0.2 s')
            AND NOT EXISTS (
                SELECT 1 FROM wallets AS w JOIN LATERAL (
                    SELECT cost_micros FROM end_inbox AS i
                    WHERE i.wallet_id = w.wallet_id AND last_error = 'insufficient_tokens' ORDER BY id LIMIT 1
                ) AS oldest ON true
                WHERE oldest.cost_micros <= w.posted_micros + w.overdraft_limit_micros
            )
    """).fetchone()
    return bool(row and row[0])


def _look(book: Book, connection: psycopg.Connection[Any], caller: Caller, apis: int) -> None:
    """Every API must answer with the balance that Postgres has: the cache is right before it is used."""
    for api in range(apis):
        for user_id in book.wallets:
            for _ in range(3):
                status, data = caller.look(user_id, api)
                spendable = _spendable_micros(connection, user_id)
                if status == 200 and round(data["token"] * MICROS) == spendable:
                    break
                time.sleep(0.5)
            else:
                book.violate("cache", f"api-{api} says {status} {data} of {user_id}, Postgres {spendable} micros")


def _spendable_micros(connection: psycopg.Connection[Any], user_id: str) -> int:
    query = """
        SELECT CAST(posted_micros - coalesce((
            SELECT sum(cost_micros) FROM end_inbox AS i WHERE i.wallet_id = w.wallet_id
        ), 0) AS bigint) FROM wallets AS w WHERE user_id = %s
    """
    row = connection.execute(query, [user_id]).fetchone()
    assert row is not None
    micros: int = row[0]
    return micros


def _has_landed(redis: Redis) -> bool:
    """Whether everything in Redis is recorded in Postgres: no end in flight, no end in the spool."""
    return not redis.scard(IN_FLIGHT) and not redis.hlen(auditor.SPOOL)
