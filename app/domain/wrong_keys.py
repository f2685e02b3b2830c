"""The brake on wrong keys: after how many of them an address has to wait, and for how long.

An address may send WRONG_MAX wrong keys in WINDOW_SECONDS. The next one makes it wait. From then on each wrong key that
comes after a wait makes it wait twice as long as before, up to WAIT_SECONDS_MAX, until the address has sent none for
FORGET_SECONDS. Right keys aren't affected: they go on working from the same address.

`app/stores/redis/wrong_key.lua` has the same rule for all processes together; a test compares the two.
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
    """Wrong keys in this window; after the first wait, since the window in which it began."""
    since: float
    """When the window began; once the address has had to wait, the time of its last wrong key."""
    waits: int
    """How often it was made to wait."""
    until: float
    """When the current wait ends."""


@dataclass(frozen=True, slots=True)
class Verdict:
    wrong: int
    waits: int
    wait_seconds: float
    """How long the address has to wait from now on; 0: not at all."""
    is_new: bool
    """Whether this wrong key started a new wait."""


def strike(known: Strikes | None, now: float) -> tuple[Strikes, Verdict]:
    """Count a wrong key."""
    if known is None or now - known.since >= (FORGET_SECONDS if known.waits else WINDOW_SECONDS):
        known = Strikes(0, now, 0, 0.0)
    wrong, since, waits, until = known.wrong + 1, known.since, known.waits, known.until
    is_new = now >= until and (waits > 0 or wrong > WRONG_MAX)
    if is_new:
        waits += 1
        # The exponent is bounded: 2 to the power of a million would be computed, too.
        until = now + min(WAIT_SECONDS_FIRST * 2 ** min(waits - 1, 30), WAIT_SECONDS_MAX)
    if waits:
        since = now
    wait_seconds = max(until - now, 0.0)
    return Strikes(wrong, since, waits, until), Verdict(wrong, waits, wait_seconds, is_new)
