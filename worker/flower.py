"""The Celery application as flower loads it: `celery -A worker.flower flower`.

Flower's own way to the broker's page knows one Sentinel, database 0 and no certificate authority. Here the page asks
Redis as every other process does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

from flower import views

from app.stores.queue import message_counts
from app.stores.redis.client import create_client
from worker.celery_app import celery, config

__all__ = ["celery"]


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


views.Broker = Broker
