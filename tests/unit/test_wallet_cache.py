"""The Lua scripts on fakeredis; `tests/integration/test_wallet_cache.py` runs the same suite on a real server."""

from __future__ import annotations

from collections.abc import Iterator

import fakeredis
import pytest

from tests.wallet_cache_suite import *  # noqa: F403
from tests.wallet_cache_suite import Cached


@pytest.fixture
def cache() -> Iterator[Cached]:
    with fakeredis.FakeRedis(decode_responses=True) as client:
        yield Cached(client)
