"""What is put into the stores behind the server's back: repeated and shuffled messages, and poison."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from typing import Any
from uuid import uuid4

import psycopg
import sqlalchemy as sa
from kombu.exceptions import OperationalError
from redis import Redis, RedisError
from uuid_utils.compat import uuid7

from app.config import Config
from app.domain.ends import AcceptedEnd, EndRequest
from app.domain.pricing import ProfitRule, price
from app.domain.usage import Usage
from app.domain.wallets import Deduction, wallet_of
from app.stores.postgres import inbox, stale
from app.stores.queue import RETRY_QUEUE, SETTLE_ENDS, SETTLE_QUEUE, WORKER_QUEUES, create_celery
from tests.faults.auditor import POISON_PREFIX
from tests.faults.book import End
from tests.faults.load import FEATURE, INPUT_TOKENS

QUEUE_PREFIX = "tokentill:queue:"
COPIES_MAX = 10
MESSAGES_REPEATED_MAX = 100
IDS_PER_MESSAGE = 50


def repeat_messages(redis: Redis, rng: random.Random) -> int:
    """Put each waiting message into its queue 1 to 10 times, in random order. Returns how many there are then.

    Of a long queue only the newest are repeated: otherwise the workers would get nothing but copies of copies.
    """
    total = 0
    for queue in (SETTLE_QUEUE, RETRY_QUEUE):
        name = QUEUE_PREFIX + queue
        with redis.pipeline() as pipeline:
            pipeline.lrange(name, 0, MESSAGES_REPEATED_MAX - 1)
            pipeline.ltrim(name, MESSAGES_REPEATED_MAX, -1)
            waiting = pipeline.execute()[0]
        copies = [message for message in waiting for _ in range(rng.randint(1, COPIES_MAX))]
        rng.shuffle(copies)
        if copies:
            redis.rpush(name, *copies)
        total += len(copies)
    return total


def messages_waiting(redis: Redis) -> int:
    """In all queues of the worker together."""
    return sum(redis.llen(QUEUE_PREFIX + queue) for queue in WORKER_QUEUES)  # type: ignore[misc]


def accept_silently(postgres_url: str, ends: Sequence[End]) -> None:
    """Record ends as an API that dies before its message is sent, on connections that bypass the proxy."""
    engine = sa.create_engine(postgres_url.replace("postgresql://", "postgresql+psycopg://"), poolclass=sa.NullPool)
    with engine.begin() as connection:
        rule = connection.execute(
            sa.text("SELECT id, basis_points, effective_from FROM profit_rules ORDER BY id")
        ).first()
        in_force = None if rule is None else ProfitRule(*rule)
        accepted = [
            AcceptedEnd(
                id=uuid7(),
                wallet_id=wallet_of(end.user_id),
                request=EndRequest(
                    end.user_id, FEATURE, Usage(INPUT_TOKENS, end.output_tokens), idempotency_key=end.key
                ),
                price=price(Usage(INPUT_TOKENS, end.output_tokens), None, in_force),
                deduction=Deduction.COVERED,
                spendable_micros=0,
            )
            for end in ends
        ]
        inbox.insert(connection, accepted)
        # Redis has no marks of these ends.
        stale.demand_refresh(connection, {end.wallet_id for end in accepted})


def announce_again(
    environment: dict[str, str], connection: psycopg.Connection[Any], rng: random.Random, ends: int
) -> int:
    """Send messages for ends that were announced before, each end 1 to 10 times, in random order. Returns the number of
    messages.
    """
    rows = connection.execute("SELECT end_id::text FROM end_keys ORDER BY created_at DESC LIMIT %s", [ends])
    ids = [str(row[0]) for row in rows for _ in range(rng.randint(1, COPIES_MAX))]
    rng.shuffle(ids)
    celery = create_celery(Config.from_environment(environment))
    sent = 0
    try:
        for i in range(0, len(ids), IDS_PER_MESSAGE):
            celery.send_task(SETTLE_ENDS, args=[ids[i : i + IDS_PER_MESSAGE]], queue=SETTLE_QUEUE, retry=False)
            sent += 1
    except (OperationalError, OSError):
        pass
    finally:
        celery.close()
    return sent


def poison_messages(environment: dict[str, str], rng: random.Random, count: int) -> int:
    """Well-formed messages that no task can handle: unknown tasks, arguments of the wrong type or number."""
    celery = create_celery(Config.from_environment(environment))
    kinds: list[tuple[str, list[Any]]] = [
        ("tokentill.no_such_task", [1]),
        (SETTLE_ENDS, [["not-an-id"]]),
        (SETTLE_ENDS, [[str(uuid4()), None, {}]]),
        (SETTLE_ENDS, [[str(uuid4()) for _ in range(50)]]),
        (SETTLE_ENDS, []),
        (SETTLE_ENDS, [{"an": "object"}]),
        ("tokentill.collect_debts", [["nobody", "", "x" * 10_000]]),
    ]
    try:
        for _ in range(count):
            task, arguments = rng.choice(kinds)
            queue = RETRY_QUEUE if task == "tokentill.collect_debts" else SETTLE_QUEUE
            celery.send_task(task, args=arguments, queue=queue, retry=False)
    except (OperationalError, OSError):
        pass
    finally:
        celery.close()
    return count


def garbage_messages(redis: Redis, rng: random.Random, count: int) -> int:
    """JSON that isn't a message of Celery's, put directly into the queue's list."""
    kinds = [
        json.dumps({"body": "bm90IGpzb24=", "content-encoding": "utf-8", "content-type": "application/json",
                    "headers": {"task": SETTLE_ENDS, "id": str(uuid4())},
                    "properties": {"delivery_tag": str(uuid4()), "body_encoding": "base64",
                                   "delivery_info": {"exchange": "settle", "routing_key": "settle"}}}),
        json.dumps({"body": "e30=", "content-encoding": "utf-8", "content-type": "application/x-pickle",
                    "headers": {"task": SETTLE_ENDS, "id": str(uuid4())},
                    "properties": {"delivery_tag": str(uuid4()), "body_encoding": "base64",
                                   "delivery_info": {"exchange": "settle", "routing_key": "settle"}}}),
    ]  # fmt: skip
    try:
        for _ in range(count):
            redis.lpush(QUEUE_PREFIX + SETTLE_QUEUE, rng.choice(kinds))
    except RedisError:
        return 0
    return count


def make_poison_possible(connection: psycopg.Connection[Any]) -> None:
    """From now on an end whose key begins with `poison-` is spoilt on its way into the inbox.

    Depending on the key, the parts of its price no longer add up to its cost, or their sum exceeds 64 bits.
    """
    connection.execute(
        """
        CREATE FUNCTION spoil() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF NEW.idempotency_key LIKE 'poison-disagrees-%' THEN
                NEW.profit_micros := NEW.profit_micros + 1;
            ELSIF NEW.idempotency_key LIKE 'poison-overflows-%' THEN
                NEW.base_cost_micros := 9000000000000000000;
                NEW.profit_micros := 9000000000000000000;
            END IF;
            RETURN NEW;
        END $$;
        CREATE TRIGGER spoil BEFORE INSERT ON end_inbox FOR EACH ROW EXECUTE FUNCTION spoil();
        """
    )


def orphan_ends(connection: psycopg.Connection[Any], count: int) -> None:
    """Inbox rows of a user without a wallet."""
    for _ in range(count):
        connection.execute(
            """
            INSERT INTO end_inbox (
                id, wallet_id, user_id, feature_endpoint_id, input_tokens, output_tokens, idempotency_key,
                profit_rule_id, base_cost_micros, profit_micros, cost_micros, state
            ) VALUES (
                %s, 'nobody', 'nobody', %s, 1, 40, %s, (SELECT min(id) FROM profit_rules),
                10000000, 1000000, 11000000, 'accepted'
            )
            """,
            [uuid7(), FEATURE, f"{POISON_PREFIX}orphan-{uuid4()}"],
        )
