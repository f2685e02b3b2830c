"""The Celery application as flower loads it: `celery -A worker.flower flower`.

- Flower's own code for the broker page supports one Sentinel, only database 0 and no certificate authority. Here the
  page
  asks Redis as every other process does.
- Its history survives restarts, in `DATA_DIR`; a kill loses at most the last half minute.
- It shows who owes how much and can stop workers, so outside of a local stack it doesn't start without a password.

Each option set here can still be changed by flower's own variable (`FLOWER_MAX_TASKS` and so on).
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterable
from typing import Any

from flower import events, views
from flower.options import options

from app.config import Config
from app.stores.queue import message_counts
from app.stores.redis.client import create_client
from worker.celery_app import celery, config
from worker.flower_access import access_refusal
from worker.flower_history import History, readable

__all__ = ["celery"]

# About 40 MB of memory, and a third of a second for each save.
TASKS_MAX = 20_000
SAVE_SECONDS = 30
# Containers get a new name at each start: workers offline for a day are dropped.
OFFLINE_WORKERS_SECONDS = 86_400


class Broker:
    """Tells flower's page the lengths of queues."""

    def __init__(self, *_: Any, **__: Any) -> None:
        """The URL that flower passes is ignored: our configuration has more."""

    async def queues(self, names: Iterable[str]) -> list[dict[str, Any]]:
        counts = await asyncio.to_thread(_counts, sorted(names))
        return [{"name": name, "messages": messages} for name, messages in counts.items()]


def _counts(names: list[str]) -> dict[str, int]:
    with create_client(config) as client:
        return message_counts(client, names)


def keep_history(config: Config) -> None:
    folder = config.data_dir / "flower"
    try:
        # Task arguments contain user ids, so the folder is private.
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        sys.exit(f"tokentill flower: cannot write to {folder} ({error.strerror}); set DATA_DIR to a folder of your own")
    options.persistent = True
    options.db = str(folder / "history")
    options.state_save_interval = SAVE_SECONDS * 1_000
    options.max_tasks = TASKS_MAX
    options.purge_offline_workers = OFFLINE_WORKERS_SECONDS


if refused := access_refusal(config):
    sys.exit(f"tokentill flower: {refused}")
keep_history(config)
options.tasks_columns = "name,args,state,result,received,runtime,worker,uuid"
options.format_task = readable
events.EventsState = History
views.Broker = Broker
