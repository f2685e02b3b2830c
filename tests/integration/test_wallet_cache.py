"""The Lua scripts on a real server."""

from __future__ import annotations

import pytest
from redis import Redis

from tests.wallet_cache_suite import *  # noqa: F403
from tests.wallet_cache_suite import Cached


@pytest.fixture
def cache(redis_client: Redis) -> Cached:
    redis_client.flushall()
    return Cached(redis_client)


def test_a_server_that_forgot_the_scripts_is_taught_again(cache: Cached, redis_client: Redis) -> None:
    load(cache, "u", posted=10)  # noqa: F405
    redis_client.script_flush()
    assert spendable(cache, "u") == 10  # noqa: F405
