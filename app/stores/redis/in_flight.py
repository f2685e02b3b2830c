"""Ends in flight: marked on their cached wallet but not recorded yet.

`WalletCache.end` adds an end here in the round trip that marks it; whoever has recorded the end removes it. An end that
stays was left behind by a process that died in between. Errors are redis-py's own.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from uuid import UUID

from redis import Redis

from app.domain.wallets import WalletId
from app.stores.redis.keys import IN_FLIGHT_KEY, IN_FLIGHT_SEEN_KEY, from_in_flight, in_flight_member, wallet_key
from app.stores.redis.scripts import is_of_one_wallet
from app.stores.redis.slices import slices


class InFlight:
    def __init__(self, client: Redis) -> None:
        self._client = client

    def land(self, ends: Sequence[tuple[UUID, WalletId]]) -> set[WalletId]:
        """Remove recorded ends from those in flight. Returns the wallets whose cached copy may lack one of these marks:
        after a flush, because the end was taken for abandoned, or because the copy was dropped.
        """
        if not ends:
            return set()
        members = [in_flight_member(end_id, wallet_id) for end_id, wallet_id in ends]
        marks: dict[WalletId, list[str]] = defaultdict(list)
        for end_id, wallet_id in ends:
            marks[wallet_id].append(f"p:{end_id}")
        looks = [(wallet_id, part) for wallet_id, named in marks.items() for part in slices(named)]
        pipeline = self._client.pipeline(transaction=False)
        pipeline.smismember(IN_FLIGHT_KEY, members)
        pipeline.srem(IN_FLIGHT_KEY, *members)
        for wallet_id, part in looks:
            pipeline.hmget(wallet_key(wallet_id), part)
        flying, removed, *found = pipeline.execute(raise_on_error=False)
        for reply in (flying, removed, *found):
            if isinstance(reply, Exception) and not is_of_one_wallet(reply):
                raise reply
        if isinstance(flying, Exception) or removed != sum(flying):
            # The key isn't a set, or somebody else removed some of these ends between the two commands.
            return set(marks)
        lost = {wallet_id for (_, wallet_id), was_in_flight in zip(ends, flying, strict=True) if not was_in_flight}
        return lost | {
            wallet_id
            for (wallet_id, _), entries in zip(looks, found, strict=True)
            if isinstance(entries, Exception) or None in entries
        }

    def give_up(self, ends: Sequence[tuple[UUID, WalletId]]) -> set[WalletId]:
        """Remove ends that nobody is going to record. Returns the wallets of those that were no longer in flight."""
        pipeline = self._client.pipeline(transaction=False)
        for end_id, wallet_id in ends:
            pipeline.srem(IN_FLIGHT_KEY, in_flight_member(end_id, wallet_id))
        return {wallet_id for (_, wallet_id), found in zip(ends, pipeline.execute(), strict=True) if not found}

    def holding(self, ends: Sequence[tuple[UUID, WalletId]]) -> set[UUID]:
        """Which of these ends are in flight."""
        found: set[UUID] = set()
        for part in slices(ends):
            replies = self._client.smismember(IN_FLIGHT_KEY, [in_flight_member(*end) for end in part])
            found |= {end_id for (end_id, _), is_member in zip(part, replies, strict=True) if is_member}
        return found

    def stranded(self, seconds: float) -> dict[UUID, WalletId]:
        """Ends that were seen in flight more than `seconds` ago and still are: end id -> wallet id.

        Times are of Redis's own clock, so the clocks of the processes don't matter.
        """
        members: set[str] = set(self._client.smembers(IN_FLIGHT_KEY))  # type: ignore[arg-type]
        if not members:
            self._client.delete(IN_FLIGHT_SEEN_KEY)
            return {}
        now = self._client.time()[0]
        pipeline = self._client.pipeline(transaction=False)
        pipeline.zadd(IN_FLIGHT_SEEN_KEY, dict.fromkeys(members, now), nx=True)
        pipeline.zrange(IN_FLIGHT_SEEN_KEY, 0, -1, withscores=True)
        _, seen = pipeline.execute()
        gone = [member for member, _ in seen if member not in members]
        if gone:
            self._client.zrem(IN_FLIGHT_SEEN_KEY, *gone)
        return dict(from_in_flight(member) for member, first in seen if member in members and first <= now - seconds)
