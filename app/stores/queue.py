"""The queue: Celery over Redis, used as a doorbell. Every message may be lost; the sweep finds what it announced."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import suppress
from queue import Empty, SimpleQueue
from uuid import UUID

import structlog
from celery import Celery
from kombu import Exchange, Queue
from kombu.exceptions import OperationalError

from app.config import Config

log = structlog.get_logger(__name__)

SETTLE_QUEUE = "settle"
RETRY_QUEUE = "retry"
MAINTENANCE_QUEUE = "maintenance"
QUEUES = (SETTLE_QUEUE, RETRY_QUEUE, MAINTENANCE_QUEUE)

SETTLE_ENDS = "tokentill.settle_ends"
COLLECT_DEBTS = "tokentill.collect_debts"

IDS_PER_MESSAGE = 1_000


def create_celery(config: Config) -> Celery:
    """The Celery application that publishers and workers share."""
    celery = Celery("tokentill")
    timeout_seconds = config.redis_timeout_ms / 1000
    celery.conf.update(
        broker_url=config.redis_url,
        broker_connection_retry_on_startup=True,
        # A worker waits for Redis for as long as it takes.
        broker_connection_max_retries=None,
        broker_transport_options={
            "global_keyprefix": "tokentill:queue:",
            # Longer than the longest task. What a killed worker held is the sweep's to find, within seconds.
            "visibility_timeout": 600,
            "socket_connect_timeout": timeout_seconds,
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
        # Settling twice does no harm, so a message is only gone when its task is done.
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        worker_prefetch_multiplier=1,
        worker_send_task_events=True,
        task_send_sent_event=True,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        worker_cancel_long_running_tasks_on_connection_loss=True,
        task_time_limit=300,
        task_soft_time_limit=240,
        timezone="UTC",
    )
    return celery


class CeleryDoorbell:
    """Rings from a thread of its own: no request waits for the broker, and what piles up becomes one message."""

    def __init__(self, celery: Celery) -> None:
        self._celery = celery
        self._pending: SimpleQueue[tuple[str, Sequence[str]] | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def settle(self, end_ids: Sequence[UUID]) -> None:
        self._ring(SETTLE_ENDS, [str(end_id) for end_id in end_ids])

    def collect(self, user_ids: Sequence[str]) -> None:
        self._ring(COLLECT_DEBTS, list(user_ids))

    def _ring(self, task: str, ids: Sequence[str]) -> None:
        self._pending.put((task, ids))
        # Started with the first message, so that it lives in the process that serves and not in its parent.
        if self._thread is None:
            with self._lock:
                if self._thread is None:
                    self._thread = threading.Thread(target=self._run, name="doorbell", daemon=True)
                    self._thread.start()

    def close(self) -> None:
        """Send what waits, then stop."""
        self._pending.put(None)
        if self._thread is not None:
            self._thread.join(timeout=5)

    def _run(self) -> None:
        is_closing = False
        while not is_closing:
            waiting: dict[str, list[str]] = {}
            rings = [self._pending.get()]
            with suppress(Empty):
                while True:
                    rings.append(self._pending.get_nowait())
            for ring in rings:
                if ring is None:
                    is_closing = True
                else:
                    waiting.setdefault(ring[0], []).extend(ring[1])
            for task, ids in waiting.items():
                self._publish(task, ids)

    def _publish(self, task: str, ids: Sequence[str]) -> None:
        queue = SETTLE_QUEUE if task == SETTLE_ENDS else RETRY_QUEUE
        try:
            for i in range(0, len(ids), IDS_PER_MESSAGE):
                part = list(ids[i : i + IDS_PER_MESSAGE])
                self._celery.send_task(task, args=[part], queue=queue, retry=False)
        except (OperationalError, OSError) as error:
            log.warning("doorbell_failed", task=task, ids=len(ids), error=type(error).__name__)
        except Exception:
            # The thread outlives whatever the broker does; the sweep settles what it couldn't announce.
            log.exception("doorbell_failed", task=task, ids=len(ids))
