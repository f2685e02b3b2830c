"""Ends that are marked on their cached wallets and not recorded yet."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from redis import Redis

from app.domain.wallets import WalletId
from app.stores.redis.keys import IN_FLIGHT_KEY, in_flight_member
from app.stores.redis.wallet_cache import slices


def in_flight(client: Redis, ends: Sequence[tuple[UUID, WalletId]]) -> set[UUID]:
    """Which of these ends (id, wallet id) are on their way into the inbox. Raises RedisError."""
    found: set[UUID] = set()
    for part in slices(ends):
        replies = client.smismember(IN_FLIGHT_KEY, [in_flight_member(*end) for end in part])
        found |= {end_id for (end_id, _), is_member in zip(part, replies, strict=True) if is_member}
    return found
