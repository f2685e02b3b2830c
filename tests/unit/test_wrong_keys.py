"""The brake on wrong keys: its rule, what each process remembers, and what stands in the log."""

from __future__ import annotations

import pytest
import structlog
from redis import ConnectionError as RedisConnectionError
from structlog.typing import EventDict

from app.access import wrong_keys
from app.access.wrong_keys import LINES_MAX, NAMED_MAX, REPORT_SECONDS, WrongKeys
from app.domain.addresses import neighbourhood
from app.domain.wrong_keys import WRONG_MAX, Strikes, Verdict, strike
from tests.unit.fakes import gate
from tests.wrong_keys_suite import Pass, RuleSuite, Strike


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now

    def passes(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


class Shared:
    """What all processes count together, with the clock of one."""

    def __init__(self, clock: Clock) -> None:
        self.known: dict[str, Strikes] = {}
        self.calls = 0
        self.is_away = False
        self._clock = clock

    def strike(self, address: str) -> Verdict:
        self.calls += 1
        if self.is_away:
            raise RedisConnectionError("gone")
        self.known[address], verdict = strike(self.known.get(address), self._clock.now)
        return verdict


class TestRule(RuleSuite):
    @pytest.fixture
    def strike(self, clock: Clock) -> Strike:
        return Shared(clock).strike

    @pytest.fixture
    def passes(self, clock: Clock) -> Pass:
        return clock.passes


@pytest.fixture
def shared(clock: Clock) -> Shared:
    return Shared(clock)


@pytest.fixture
def brake(shared: Shared, clock: Clock) -> WrongKeys:
    return WrongKeys(shared, gate(), now=clock)


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> list[EventDict]:
    # The module's own logger may have been used before, and keeps what it was configured with then.
    captured = structlog.testing.LogCapture()
    monkeypatch.setattr(wrong_keys, "log", structlog.wrap_logger(None, processors=[captured]))
    return captured.entries


class TestBrake:
    def test_2000_guesses_cost_redis_a_few_calls(self, brake: WrongKeys, shared: Shared, clock: Clock) -> None:
        waits = [brake.wait_seconds("192.0.2.1") for _ in range(2_000)]
        assert [seconds > 0 for seconds in waits] == [False] * WRONG_MAX + [True] * (2_000 - WRONG_MAX)
        assert shared.calls == WRONG_MAX + 1
        assert brake.wait_seconds("192.0.2.2") == 0

    def test_all_processes_count_together(self, brake: WrongKeys, shared: Shared, clock: Clock) -> None:
        other = WrongKeys(shared, gate(), now=clock)
        for _ in range(WRONG_MAX // 2):
            assert brake.wait_seconds("a") == other.wait_seconds("a") == 0
        assert brake.wait_seconds("a") > 0
        assert other.wait_seconds("a") > 0

    def test_without_redis_each_counts_by_itself(self, shared: Shared, clock: Clock) -> None:
        redis = gate()
        brake = WrongKeys(shared, redis, now=clock)
        shared.is_away = True
        waits = [brake.wait_seconds("a") for _ in range(WRONG_MAX + 2)]
        assert [seconds > 0 for seconds in waits] == [False] * WRONG_MAX + [True, True]
        assert shared.calls == 1
        assert not redis.is_open

    def test_who_waits_when_redis_goes_away_goes_on_waiting(self, shared: Shared, clock: Clock) -> None:
        redis = gate()
        brake = WrongKeys(shared, redis, now=clock)
        for _ in range(WRONG_MAX + 1):
            seconds = brake.wait_seconds("a")
        redis.close(RedisConnectionError("gone"))
        assert brake.wait_seconds("a") == seconds
        clock.passes(seconds + 1)
        assert brake.wait_seconds("a") == 2 * seconds

    def test_an_ipv6_64_is_one(self, brake: WrongKeys) -> None:
        waits = [brake.wait_seconds(f"2001:db8:1:2::{i:x}") for i in range(WRONG_MAX + 1)]
        assert waits[-1] > 0
        assert brake.wait_seconds("2001:db8:1:3::1") == 0

    @pytest.mark.parametrize(
        ("address", "told"),
        [
            ("192.0.2.1", "192.0.2.1"),
            ("::ffff:192.0.2.1", "192.0.2.1"),
            ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
            ("fe80::1%eth0", "fe80::/64"),
            ("unknown", "unknown"),
        ],
    )
    def test_neighbourhoods(self, address: str, told: str) -> None:
        assert neighbourhood(address) == told

    def test_memory_is_bounded_under_a_flood_of_addresses(
        self, brake: WrongKeys, shared: Shared, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(wrong_keys, "ADDRESSES_MAX", 100)
        shared.is_away = True
        for i in range(1_000):
            brake.wait_seconds(f"a{i}")
        assert list(brake._strikes) == [f"a{i}" for i in range(900, 1_000)]
        assert len(brake._wrong) == 100
        assert brake._wrong_elsewhere == 900


class TestLog:
    def test_a_line_for_each_wait_and_a_report_and_none_for_each_guess(
        self, brake: WrongKeys, clock: Clock, lines: list[EventDict]
    ) -> None:
        for _ in range(2_000):
            brake.wait_seconds("192.0.2.1")
        brake.report()
        clock.passes(REPORT_SECONDS)
        brake.report()
        assert lines == [
            {
                "event": "wrong_keys_braked",
                "log_level": "warning",
                "address": "192.0.2.1",
                "wrong": WRONG_MAX + 1,
                "times": 1,
                "retry_after_seconds": 2,
            },
            {
                "event": "wrong_keys",
                "log_level": "warning",
                "wrong": 2_000,
                "addresses": 1,
                "most": {"192.0.2.1": 2_000},
                "seconds": 10,
            },
        ]
        clock.passes(REPORT_SECONDS)
        brake.report()
        assert len(lines) == 2

    def test_a_slip_is_not_told(self, brake: WrongKeys, clock: Clock, lines: list[EventDict]) -> None:
        for _ in range(WRONG_MAX):
            brake.wait_seconds("192.0.2.1")
        clock.passes(REPORT_SECONDS)
        brake.report()
        assert lines == []

    def test_many_from_everywhere_are_told_together(
        self, brake: WrongKeys, clock: Clock, lines: list[EventDict], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(wrong_keys, "ADDRESSES_MAX", 50)
        for i in range(200):
            brake.wait_seconds(f"192.0.2.{i}")
        clock.passes(REPORT_SECONDS)
        brake.report()
        [line] = lines
        assert (line["wrong"], line["addresses"], len(line["most"])) == (200, 50, NAMED_MAX)

    def test_many_that_have_to_wait_make_no_flood_of_lines(
        self, brake: WrongKeys, clock: Clock, lines: list[EventDict]
    ) -> None:
        for i in range(100):
            for _ in range(WRONG_MAX + 1):
                brake.wait_seconds(f"192.0.2.{i}")
        assert len(lines) == LINES_MAX
        clock.passes(REPORT_SECONDS)
        brake.report()
        assert lines[-1]["wrong"] == 100 * (WRONG_MAX + 1)
