"""Cached wallets that are newer than Postgres, after Postgres has lost commits: finding them and setting them back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from redis import Redis

from app.domain.wallets import WalletId
from app.stores.redis.keys import fence_key, wallet_keys
from app.stores.redis.scripts import PRELUDE


@dataclass(frozen=True, slots=True)
class Versions:
    """Versions of a cached wallet and of its fence; empty where there is none."""

    cached: str
    fence: str

    @property
    def highest(self) -> int:
        return max(_number(self.cached), _number(self.fence))


class LostWallets:
    """Raises RedisError."""

    def __init__(self, client: Redis) -> None:
        self._client = client
        self._script = client.register_script(PRELUDE + (Path(__file__).parent / "rewind.lua").read_text())

    def versions(self, wallet_ids: Sequence[WalletId]) -> dict[WalletId, Versions]:
        pipeline = self._client.pipeline(transaction=False)
        for wallet_id in wallet_ids:
            pipeline.hget(wallet_keys(wallet_id)[0], "version")
            pipeline.get(fence_key(wallet_id))
        # A copy that can't be read counts as not cached here: whichever script meets it drops it.
        found = [
            "" if reply is None or isinstance(reply, Exception) else str(reply) for reply in pipeline.execute(False)
        ]
        return {wallet_id: Versions(*found[2 * i : 2 * i + 2]) for i, wallet_id in enumerate(wallet_ids)}

    def rewind(self, seen: Mapping[WalletId, Versions]) -> None:
        """Allow older versions to be filled in, for wallets that haven't changed since `seen` was read."""
        for wallet_id, versions in seen.items():
            self._script([*wallet_keys(wallet_id), fence_key(wallet_id)], [versions.cached, versions.fence])


def _number(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        return 0
