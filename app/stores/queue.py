"""The queue: Celery over Redis, used as a doorbell. Any message may be lost: the sweep finds its work later."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from uuid import UUID

import structlog
from celery import Celery
from kombu import Exchange, Queue
from kombu.exceptions import OperationalError
from redis import Redis, RedisError

from app import tracing
from app.config import Config
from app.domain.amounts import token_number
from app.stores.broker import Amqp, broker_settings, use_lasting_transport
from app.stores.postgres.debts import IndebtedWallet

log = structlog.get_logger(__name__)

SETTLE_QUEUE = "settle"
RETRY_QUEUE = "retry"
MAINTENANCE_QUEUE = "maintenance"
# Consumed by a worker of its own, so that a slow receiver doesn't delay settlements.
WEBHOOKS_QUEUE = "webhooks"
WORKER_QUEUES = (SETTLE_QUEUE, RETRY_QUEUE, MAINTENANCE_QUEUE)
QUEUES = (*WORKER_QUEUES, WEBHOOKS_QUEUE)

SETTLE_ENDS = "tokentill.settle_ends"
COLLECT_DEBTS = "tokentill.collect_debts"
DELIVER_WEBHOOKS = "tokentill.deliver_webhooks"

IDS_PER_MESSAGE = 1_000
MESSAGES_LOOKED_AT = 100
# The most arguments that one process keeps pending: a few megabytes while the broker is silent.
PENDING_MAX = 50_000
# The most messages in a queue that nobody consumes: more would only fill Redis.
MESSAGES_MAX = 10_000
KEY_PREFIX = "tokentill:queue:"
BROKER_SILENT_SECONDS = 5.0
# The pause between two messages about ends from one process. A lone end is announced at once. Under load ends wait for
# up to this long, which nobody notices: the cached balance already includes them.
PAUSE_SECONDS = 0.1


def message_counts(client: Redis, queues: Sequence[str]) -> dict[str, int]:
    """How many messages wait in each queue. Raises RedisError."""
    pipeline = client.pipeline(transaction=False)
    for queue in queues:
        pipeline.llen(f"{KEY_PREFIX}{queue}")
    return dict(zip(queues, pipeline.execute(), strict=True))


def is_waiting(client: Redis, queue: str, task: str) -> bool:
    """Whether a message of this task waits in a queue, or so many others that one more is useless. Raises
    RedisError.
    """
    found = client.lrange(f"{KEY_PREFIX}{queue}", 0, MESSAGES_LOOKED_AT - 1)
    return len(found) >= MESSAGES_LOOKED_AT or any(_task_of(message) == task for message in found)


def _task_of(message: bytes | str) -> object:
    try:
        return json.loads(message)["headers"]["task"]
    except (ValueError, LookupError, TypeError):
        # Not a message of ours; the worker discards it.
        return None


def create_celery(config: Config) -> Celery:
    """The Celery application that publishers and workers share."""
    use_lasting_transport()
    celery = Celery("tokentill", amqp=Amqp)
    timeout_seconds = config.redis_timeout_seconds
    broker = broker_settings(config.redis, timeout_seconds)
    celery.conf.update(
        broker_url=broker["broker_url"],
        broker_use_ssl=broker["broker_use_ssl"],
        broker_connection_retry_on_startup=True,
        # A worker waits for Redis as long as it takes.
        broker_connection_max_retries=None,
        # See broker.py: a command that Redis refuses doesn't end a worker.
        broker_channel_error_retry=True,
        broker_transport_options={
            **broker["broker_transport_options"],
            "global_keyprefix": KEY_PREFIX,
            # What a killed worker held is found by the sweep within seconds. kombu compares the clocks of two hosts for
            # this timeout: it is so long that differing clocks never make it deliver a message that is still being
            # worked on.
            "visibility_timeout": 2 * 86_400,
            "socket_connect_timeout": timeout_seconds,
            # A worker blocks for a second when it waits for messages; our own calls are far shorter.
            "socket_timeout": BROKER_SILENT_SECONDS,
            "socket_keepalive": True,
            "health_check_interval": 30,
        },
        task_queues=[Queue(name, Exchange(name), routing_key=name) for name in QUEUES],
        task_default_queue=MAINTENANCE_QUEUE,
        task_create_missing_queues=False,
        task_serializer="json",
        accept_content=["json"],
        task_ignore_result=True,
        task_store_errors_even_if_ignored=False,
        # Settling twice does no harm, so a message is acknowledged only when its task is done.
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        worker_prefetch_multiplier=1,
        worker_send_task_events=True,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        worker_cancel_long_running_tasks_on_connection_loss=True,
        task_time_limit=300,
        task_soft_time_limit=240,
        timezone="UTC",
    )
    return celery


class CeleryDoorbell:
    """Sends messages from a thread of its own: no request waits for the broker, and pending ends share one message.

    After a message about ends the next one waits `pause_seconds`: a message costs both sides as much as dozens of ends.
    With `pending_max` arguments pending, further ones are dropped until some are sent. A queue with `messages_max`
    messages gets no more. The sweep finds what isn't announced.
    """

    def __init__(
        self,
        celery: Celery,
        client: Redis,
        *,
        pending_max: int = PENDING_MAX,
        messages_max: int = MESSAGES_MAX,
        pause_seconds: float = PAUSE_SECONDS,
    ) -> None:
        self._celery = celery
        self._client = client
        self._pending_max = pending_max
        self._messages_max = messages_max
        self._pause_seconds = pause_seconds
        self._full_queues: set[str] = set()
        self._changed = threading.Condition()
        # Everything below is guarded by that lock. Arguments that are being sent to the broker count as pending too.
        self._end_ids: list[str] = []
        self._indebted: dict[str, Sequence[str]] = {}
        self._pending_count = 0
        self._dropped_count = 0
        self._pause_until = 0.0
        self._is_closing = False
        self._thread: threading.Thread | None = None

    def settle(self, end_ids: Sequence[UUID]) -> None:
        with self._changed:
            if self._takes(len(end_ids)):
                self._end_ids += map(str, end_ids)
                if self._thread is None or self._pause_left <= 0:
                    self._wake_up()

    def collect(self, wallets: Sequence[IndebtedWallet]) -> None:
        with self._changed:
            for wallet in wallets:
                arguments = (wallet.wallet_id, str(token_number(wallet.debt_micros)))
                if self._takes(len(arguments) if wallet.wallet_id not in self._indebted else 0):
                    self._indebted[wallet.wallet_id] = arguments
            self._wake_up()

    @property
    def waiting(self) -> int:
        """How many arguments are pending."""
        return self._pending_count

    def close(self) -> None:
        """Send what is pending, then stop."""
        with self._changed:
            thread, self._thread = self._thread, None
            self._is_closing = True
            self._changed.notify()
        if thread is not None:
            thread.join(timeout=5)

    def _takes(self, count: int) -> bool:
        if self._pending_count + count > self._pending_max:
            self._dropped_count += count
            return False
        self._pending_count += count
        return True

    def _wake_up(self) -> None:
        if self._thread is None:
            # Started with the first message, so that the thread lives in the serving process and not in its parent
            # before a fork.
            self._is_closing = False
            self._thread = threading.Thread(target=self._run, name="doorbell", daemon=True)
            self._thread.start()
        self._changed.notify()

    def _run(self) -> None:
        is_closing = False
        while not is_closing:
            end_ids, indebted, is_closing = self._next()
            for i in range(0, len(end_ids), IDS_PER_MESSAGE):
                batch = end_ids[i : i + IDS_PER_MESSAGE]
                with tracing.sending(SETTLE_ENDS, batch) as headers:
                    self._publish(SETTLE_ENDS, SETTLE_QUEUE, [batch], shown=_shown(batch), headers=headers)
            for wallet_id, debt_token in indebted.values():
                # Each wallet gets a task of its own, so that an operator sees in its arguments who owes how much.
                shown = f"{wallet_id} owes {debt_token} tokens"
                self._publish(COLLECT_DEBTS, RETRY_QUEUE, [wallet_id, debt_token], shown=shown)
            self._sent(len(end_ids) + sum(map(len, indebted.values())))

    def _next(self) -> tuple[list[str], dict[str, Sequence[str]], bool]:
        """Wait for something to send. Returns ends (none during a pause), wallets, and whether we are closing."""
        with self._changed:
            end_ids: list[str] = []
            while not (self._is_closing or self._indebted or (self._end_ids and self._pause_left <= 0)):
                # New ends don't notify during a pause: each notification would make the interpreter switch threads.
                self._changed.wait(max(self._pause_left, 0) or None)
            if self._end_ids and (self._is_closing or self._pause_left <= 0):
                end_ids, self._end_ids = self._end_ids, end_ids
                self._pause_until = time.monotonic() + self._pause_seconds
            indebted, self._indebted = self._indebted, {}
            return end_ids, indebted, self._is_closing

    @property
    def _pause_left(self) -> float:
        return self._pause_until - time.monotonic()

    def _sent(self, count: int) -> None:
        with self._changed:
            self._pending_count -= count
            dropped, self._dropped_count = self._dropped_count, 0
        if dropped:
            log.warning("doorbell_overflowed", dropped=dropped)

    def _is_full(self, queue: str) -> bool:
        with suppress(RedisError):
            return int(self._client.llen(f"{KEY_PREFIX}{queue}")) >= self._messages_max
        return False

    def _publish(
        self,
        task: str,
        queue: str,
        arguments: list[object],
        *,
        shown: str,
        headers: dict[str, object] | None = None,
    ) -> None:
        if self._is_full(queue):
            if queue not in self._full_queues:
                log.warning("doorbell_silent", queue=queue)
            self._full_queues.add(queue)
            return
        self._full_queues.discard(queue)
        try:
            self._celery.send_task(task, args=arguments, queue=queue, retry=False, argsrepr=shown, headers=headers)
        except (OperationalError, OSError) as error:
            log.warning("doorbell_failed", task=task, error=type(error).__name__, detail=str(error)[:200])
        except Exception:
            # The thread has to survive any error of the broker; the sweep finds what wasn't announced.
            log.exception("doorbell_failed", task=task)


def _shown(end_ids: Sequence[str]) -> str:
    """What flower shows for a batch, whose ids would fill its page."""
    if len(end_ids) == 1:
        return f"1 end: {end_ids[0]}"
    return f"{len(end_ids)} ends: {end_ids[0]} ... {end_ids[-1]}"
