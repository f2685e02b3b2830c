"""The worker's Celery application: `celery -A worker.celery_app worker`."""

from __future__ import annotations

import sys
import threading
from functools import cache
from typing import Any

from celery.concurrency.thread import TaskPool as ThreadPool
from celery.signals import (
    celeryd_init,
    heartbeat_sent,
    setup_logging,
    worker_init,
    worker_process_init,
    worker_process_shutdown,
    worker_ready,
    worker_shutdown,
)

from app import logs, tracing
from app.bootstrap import Container
from app.config import Config, ConfigError
from app.startup import spare_what_stays, wait_for_stores
from app.stores.postgres.processes import ProcessKind
from app.stores.queue import create_celery
from worker.heartbeats import Heartbeat
from worker.schedule import beat_schedule

try:
    config = Config.from_environment()
except ConfigError as error:
    sys.exit(f"tokentill worker: {error}")

celery = create_celery(config)
celery.conf.update(
    beat_schedule=beat_schedule(config),
    beat_scheduler="worker.beat:Ticker",
    imports=[
        "worker.tasks.settle",
        "worker.tasks.maintenance",
        "worker.tasks.reconcile",
        "worker.tasks.repricing",
        "worker.tasks.samples",
        "worker.tasks.top_ups",
        "worker.tasks.bulk_actions",
        "worker.tasks.usage_summaries",
        "worker.tasks.webhooks",
    ],
)


# The name under which operators know this worker.
worker_name = "worker"
_making = threading.Lock()


@cache
def _made() -> Container:
    return Container(config, celery=celery)


def container() -> Container:
    """This process's stores and services. They are made in the child that runs tasks, never before a fork, and once for
    all its threads.
    """
    with _making:
        return _made()


@setup_logging.connect
def _log_as_json(**_: Any) -> None:
    logs.configure(config.log_level)


@worker_init.connect
def _wait_for_stores(**_: Any) -> None:
    try:
        wait_for_stores(config)
    except ConfigError as error:
        sys.exit(f"tokentill worker: {error}")


@celeryd_init.connect
def _learn_name(sender: str, **_: Any) -> None:
    """Before children are forked, because each of them reports under this worker's name."""
    global worker_name  # noqa: PLW0603 - it has one, and Celery tells it to a function
    worker_name = sender


@worker_process_init.connect
def _begin_clean(**_: Any) -> None:
    _made.cache_clear()
    tracing.switch_on(config, "worker")
    container().metrics.start(ProcessKind.WORKER, worker_name)
    spare_what_stays()


@worker_ready.connect
def _begin_threads(sender: Any, **_: Any) -> None:
    """A thread pool has no child processes, so this process does what children do in `_begin_clean`."""
    if isinstance(sender.pool, ThreadPool):
        tracing.switch_on(config, "webhooks")
        container().metrics.start(ProcessKind.WEBHOOKS, worker_name)


@worker_shutdown.connect
@worker_process_shutdown.connect
def _hand_over(**_: Any) -> None:
    # A parent process of children hasn't made a container.
    if _made.cache_info().currsize:
        container().metrics.close()
    tracing.switch_off()


@cache
def _heartbeat(hostname: str) -> Heartbeat:
    return Heartbeat(config.data_dir, f"worker-{hostname}")


@heartbeat_sent.connect
def _note_heartbeat(sender: Any, **_: Any) -> None:
    _heartbeat(sender.eventer.hostname).beat()
