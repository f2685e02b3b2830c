"""The brake on wrong keys: from which of them on an address has to wait, and for how long.

An address may send WRONG_MAX wrong keys in WINDOW_SECONDS. The next one makes it wait, and from then on each wrong key
that comes after a wait makes it wait twice as long as before, up to WAIT_SECONDS_MAX, until it has sent none for
FORGET_SECONDS. Right keys are no concern of it: they go on working from the same address meanwhile.

`app/stores/redis/wrong_key.lua` has the same rule for all processes together; a test holds the two to one another.
"""

from __future__ import annotations

from dataclasses import dataclass

WRONG_MAX = 10
WINDOW_SECONDS = 60
WAIT_SECONDS_FIRST = 2
WAIT_SECONDS_MAX = 900
FORGET_SECONDS = 3_600


@dataclass(frozen=True, slots=True)
class Strikes:
    """What is remembered of an address. Times are seconds of one clock."""

    wrong: int
    """In this window, or since the first wait."""
    since: float
    """When the window began; the last wrong key, once it had to wait."""
    waits: int
    """How often it was made to wait."""
    until: float
    """When the wait is over."""


@dataclass(frozen=True, slots=True)
class Verdict:
    wrong: int
    waits: int
    wait_seconds: float
    """How long it has to wait from now on; 0: not at all."""
    is_new: bool
    """It is this wrong key that makes it wait."""


def strike(known: Strikes | None, now: float) -> tuple[Strikes, Verdict]:
    """One more wrong key."""
    if known is None or now - known.since >= (FORGET_SECONDS if known.waits else WINDOW_SECONDS):
        known = Strikes(0, now, 0, 0.0)
    wrong, since, waits, until = known.wrong + 1, known.since, known.waits, known.until
    is_new = now >= until and (waits > 0 or wrong > WRONG_MAX)
    if is_new:
        waits += 1
        # The exponent is bounded first: 2 to the power of a million is a number, too.
        until = now + min(WAIT_SECONDS_FIRST * 2 ** min(waits - 1, 30), WAIT_SECONDS_MAX)
    if waits:
        since = now
    wait_seconds = max(until - now, 0.0)
    return Strikes(wrong, since, waits, until), Verdict(wrong, waits, wait_seconds, is_new)
