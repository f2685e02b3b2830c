"""The brake on wrong keys: an address that guesses keys has to wait, and is logged.

Wrong keys are counted by all processes together, in Redis. Each process also remembers which addresses have to wait, so
that a flood of guesses costs Redis only a few calls, and it counts by itself while Redis is away. Memory is bounded on
both sides: here a flood of addresses evicts those that were seen longest ago, in Redis random ones. For IPv6 a /64
counts as one address, because each host has that many.

The log has a line when an address is made to wait, and every few seconds a report of how many wrong keys came from
which addresses; never a line for each wrong key.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Protocol

import structlog
from redis import RedisError

from app.access.gate import Gate
from app.domain.addresses import neighbourhood
from app.domain.wrong_keys import Strikes, Verdict, strike

log = structlog.get_logger(__name__)

ADDRESSES_MAX = 10_000
REPORT_SECONDS = 10.0
# At most this many log lines between two reports say at once that an address has to wait; the report covers all of
# them.
LINES_MAX = 10
NAMED_MAX = 10
# This many wrong keys between two reports are worth a report, from however many addresses.
MANY = 100


class Counted(Protocol):
    def strike(self, address: str) -> Verdict:
        """Raises RedisError."""


class WrongKeys:
    def __init__(self, shared: Counted, redis: Gate, *, now: Callable[[], float] = time.monotonic) -> None:
        self._shared = shared
        self._redis = redis
        self._now = now
        self._lock = threading.Lock()
        self._strikes: OrderedDict[str, Strikes] = OrderedDict()
        # Counts since the last report.
        self._wrong: dict[str, int] = {}
        self._wrong_elsewhere = 0
        self._lines = 0
        self._is_somebody_waiting = False
        self._reported_at = now()

    def wait_seconds(self, address: str) -> float:
        """Count a wrong key from this address. Returns how many seconds the address has to wait now; 0: none."""
        network, now = neighbourhood(address), self._now()
        with self._lock:
            self._count(network)
            known = self._strikes.get(network)
            if known is not None and now < known.until:
                self._is_somebody_waiting = True
                return known.until - now
        verdict = self._asked(network)
        with self._lock:
            if verdict is None:
                found, verdict = strike(self._strikes.get(network), now)
            else:
                found = Strikes(verdict.wrong, now, verdict.waits, now + verdict.wait_seconds)
            self._remember(network, found)
            is_told = verdict.is_new and self._lines < LINES_MAX
            self._lines += is_told
            self._is_somebody_waiting |= verdict.wait_seconds > 0
        if is_told:
            log.warning(
                "wrong_keys_braked",
                address=network,
                wrong=verdict.wrong,
                times=verdict.waits,
                retry_after_seconds=round(verdict.wait_seconds),
            )
        return verdict.wait_seconds

    def report(self) -> None:
        """Every REPORT_SECONDS, log what was counted since the last report, if there were MANY wrong keys or an address
        had to wait.
        """
        now = self._now()
        if now - self._reported_at < REPORT_SECONDS:
            return
        with self._lock:
            wrong, self._wrong = self._wrong, {}
            elsewhere, self._wrong_elsewhere = self._wrong_elsewhere, 0
            is_somebody_waiting, self._is_somebody_waiting = self._is_somebody_waiting, False
            seconds, self._reported_at, self._lines = now - self._reported_at, now, 0
        total = sum(wrong.values()) + elsewhere
        if is_somebody_waiting or total >= MANY:
            most = sorted(wrong.items(), key=lambda item: -item[1])[:NAMED_MAX]
            log.warning(
                "wrong_keys",
                wrong=total,
                # At most ADDRESSES_MAX addresses are told apart.
                addresses=len(wrong),
                most=dict(most),
                seconds=round(seconds),
            )

    def _count(self, network: str) -> None:
        if network in self._wrong or len(self._wrong) < ADDRESSES_MAX:
            self._wrong[network] = self._wrong.get(network, 0) + 1
        else:
            self._wrong_elsewhere += 1

    def _asked(self, network: str) -> Verdict | None:
        """Redis's verdict; None while Redis is away."""
        if not self._redis.is_open:
            return None
        try:
            return self._shared.strike(network)
        except RedisError as error:
            self._redis.close(error)
            return None

    def _remember(self, network: str, strikes: Strikes) -> None:
        self._strikes[network] = strikes
        self._strikes.move_to_end(network)
        while len(self._strikes) > ADDRESSES_MAX:
            self._strikes.popitem(last=False)
