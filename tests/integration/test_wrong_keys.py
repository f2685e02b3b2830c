"""The brake's rule as Redis has it, on a real server."""

from __future__ import annotations

import pytest
from redis import Redis

from app.bootstrap import Container
from app.domain.wrong_keys import FORGET_SECONDS
from app.stores.redis import wrong_keys
from app.stores.redis.wrong_keys import WRONG_KEYS_KEY, SharedStrikes
from tests.wrong_keys_suite import Pass, RuleSuite, Strike


class TestInRedis(RuleSuite):
    @pytest.fixture
    def strike(self, container: Container) -> Strike:
        return SharedStrikes(container.redis_client).strike

    @pytest.fixture
    def passes(self, redis_client: Redis) -> Pass:
        """Moves what is remembered back in time, as a server's clock can't be moved on."""

        def pass_(seconds: float) -> None:
            for address, text in redis_client.hgetall(WRONG_KEYS_KEY).items():
                wrong, since, waits, until = text.split(" ")
                earlier = f"{wrong} {float(since) - seconds:.6f} {waits} {max(float(until) - seconds, 0):.6f}"
                redis_client.hset(WRONG_KEYS_KEY, address, earlier)

        return pass_


def test_memory_is_bounded_and_given_back(
    container: Container, redis_client: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wrong_keys, "ADDRESSES_MAX", 20)
    shared = SharedStrikes(container.redis_client)
    for i in range(100):
        shared.strike(f"192.0.2.{i}")
    assert redis_client.hlen(WRONG_KEYS_KEY) == 20
    assert 0 < redis_client.ttl(WRONG_KEYS_KEY) <= FORGET_SECONDS


def test_a_server_that_was_flushed_or_restarted_learns_the_script_again(
    container: Container, redis_client: Redis
) -> None:
    shared = SharedStrikes(container.redis_client)
    shared.strike("a")
    redis_client.script_flush()
    assert shared.strike("a").wrong == 2


def test_what_is_remembered_in_another_form_is_begun_anew(container: Container, redis_client: Redis) -> None:
    redis_client.hset(WRONG_KEYS_KEY, "a", "something else")
    assert SharedStrikes(container.redis_client).strike("a").wrong == 1
