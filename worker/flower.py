"""The Celery application as flower loads it: `celery -A worker.flower flower`.

- Flower's own way to the broker's page knows one Sentinel, database 0 and no certificate authority. Here the page asks
  Redis as every other process does.
- What it remembers stays over a restart, in `DATA_DIR`; a kill loses the last half minute of it.
- It shows who owes how much and can stop workers, so outside of a local stack it doesn't start without a password.

Each of the options set here is still flower's own, to be changed by its variable (`FLOWER_MAX_TASKS` and so on).
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

# About 40 MB of memory, and a third of a second each time that it is saved.
TASKS_MAX = 20_000
SAVE_SECONDS = 30
# Containers come with a new name each time: those of yesterday are of no interest.
OFFLINE_WORKERS_SECONDS = 86_400


class Broker:
    """What flower's page asks for the lengths of queues."""

    def __init__(self, *_: Any, **__: Any) -> None:
        """Flower names the broker by a URL, which the configuration knows better."""

    async def queues(self, names: Iterable[str]) -> list[dict[str, Any]]:
        counts = await asyncio.to_thread(_counts, sorted(names))
        return [{"name": name, "messages": messages} for name, messages in counts.items()]


def _counts(names: list[str]) -> dict[str, int]:
    with create_client(config) as client:
        return message_counts(client, names)


def keep_history(config: Config) -> None:
    folder = config.data_dir / "flower"
    try:
        # User ids stand in there.
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
