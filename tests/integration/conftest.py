"""A Redis of a test's own, to be killed or frozen, and the company that uses it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from app.bootstrap import Container
from app.config import Config
from stack.embedded import ValkeyServer
from tests.emptying import empty_stores
from tests.processes import free_port
from tests.support import Billing


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[ValkeyServer]:
    with ValkeyServer(tmp_path / "redis", port=free_port()) as server:
        yield server


@pytest.fixture
def make_shop(config: Config, own_redis: ValkeyServer) -> Iterator[Callable[..., Billing]]:
    """Makes a company on empty stores whose `user-1` has 100 tokens, with settings of its own."""
    containers: list[Container] = []

    def make(**settings: Any) -> Billing:
        own = replace(config, redis_url=own_redis.url, redis_timeout_seconds=0.3, **settings)
        container = Container(own, is_watched=True)
        containers.append(container)
        empty_stores(own, container.redis_client)
        container.catalog.refresh()
        billing = Billing(container)
        billing.catalog()
        billing.wallet("user-1", tokens=100)
        return billing

    yield make
    for container in containers:
        container.close()
