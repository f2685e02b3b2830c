"""Wrong keys by address, counted by all processes together (`wrong_key.lua`). Memory is bounded, also in a flood."""

from __future__ import annotations

from pathlib import Path
from typing import cast

from redis import Redis

from app.domain.wrong_keys import (
    FORGET_SECONDS,
    WAIT_SECONDS_FIRST,
    WAIT_SECONDS_MAX,
    WINDOW_SECONDS,
    WRONG_MAX,
    Verdict,
)
from app.stores.redis.keys import KEY_PREFIX

WRONG_KEYS_KEY = f"{KEY_PREFIX}:wrong-keys"
# Some 60 bytes per address.
ADDRESSES_MAX = 10_000

_SOURCE = (Path(__file__).parent / "wrong_key.lua").read_text()
_RULE = (WRONG_MAX, WINDOW_SECONDS, WAIT_SECONDS_FIRST, WAIT_SECONDS_MAX, FORGET_SECONDS)


class SharedStrikes:
    def __init__(self, client: Redis) -> None:
        self._script = client.register_script(_SOURCE)

    def strike(self, address: str) -> Verdict:
        """Count a wrong key from an address. Raises RedisError."""
        reply = self._script(keys=[WRONG_KEYS_KEY], args=[address, *_RULE, ADDRESSES_MAX])
        wrong, waits, wait_thousandths, is_new = cast("list[int]", reply)
        return Verdict(wrong, waits, wait_thousandths / 1_000, bool(is_new))
