"""Cached wallets as they are, for the reconciliation, and two ways to repair one whose totals are wrong.

Errors are redis-py's own, as in `wallet_cache`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from redis import Redis
from redis.exceptions import ResponseError

from app.domain.wallets import UntoldEnd, Wallet, WalletId, WalletStatus
from app.stores.redis.keys import wallet_keys
from app.stores.redis.marks import from_entry
from app.stores.redis.scripts import WalletScript, is_of_one_wallet
from app.stores.redis.slices import ITEMS_PER_CALL

# A wallet with more fields is read in slices: Redis serves nobody else while it copies a large hash.
FIELDS_MAX = 5_000


@dataclass(frozen=True, slots=True)
class CachedWallet:
    """A wallet's hash as `prelude.lua` describes it: its running totals, and the marks and holds that they should sum
    up.
    """

    epoch: int
    wallet: Wallet
    available_micros: int
    debt_micros: int
    held_micros: int
    marks: Mapping[UUID, UntoldEnd]
    holds: Mapping[str, int]
    endless_holds: frozenset[str]
    """Process ids of holds without an expiry time, which nothing would ever expire."""


@dataclass(frozen=True, slots=True)
class Unreadable:
    """The wallet's key has another type, or fields that can't be read."""

    reason: str


class WalletSnapshots:
    def __init__(self, client: Redis) -> None:
        self._client = client
        self._recount = client.register_script(WalletScript("recount").source)

    def read(self, wallet_ids: Collection[WalletId]) -> dict[WalletId, CachedWallet | Unreadable]:
        """Those of these wallets that are cached. A wallet too large for one call is read in slices, so not as of one
        moment.
        """
        pipeline = self._client.pipeline(transaction=False)
        for wallet_id in wallet_ids:
            pipeline.hlen(wallet_keys(wallet_id)[0])
        lengths = dict(zip(wallet_ids, pipeline.execute(raise_on_error=False), strict=True))
        small = [
            wallet_id for wallet_id, length in lengths.items() if not isinstance(length, int) or length <= FIELDS_MAX
        ]
        pipeline = self._client.pipeline(transaction=False)
        for wallet_id in small:
            wallet, holds = wallet_keys(wallet_id)
            # The hash is read before the sorted set: a hold granted between the two reads must not look as if it had no
            # expiry time.
            pipeline.hgetall(wallet)
            pipeline.zrange(holds, 0, -1)
        replies = pipeline.execute(raise_on_error=False)
        found: dict[WalletId, CachedWallet | Unreadable] = {}
        for wallet_id, fields, expiring in zip(small, replies[::2], replies[1::2], strict=True):
            for reply in (fields, expiring):
                if isinstance(reply, Exception) and not is_of_one_wallet(reply):
                    raise reply
            if fields:
                found[wallet_id] = _read(wallet_id, fields, expiring)
        for wallet_id in lengths.keys() - set(small):
            wallet, holds = wallet_keys(wallet_id)
            fields = dict(self._client.hscan_iter(wallet, count=ITEMS_PER_CALL))
            found[wallet_id] = _read(
                wallet_id, fields, [name for name, _ in self._client.zscan_iter(holds, count=ITEMS_PER_CALL)]
            )
        return found

    def recount(self, wallet_ids: Collection[WalletId]) -> None:
        """Correct the totals of wallets whose totals don't match their marks and holds; one too large for a call is
        dropped.
        """
        for wallet_id in wallet_ids:
            if self._recount(keys=wallet_keys(wallet_id), args=[FIELDS_MAX]) == -1:
                self.forget([wallet_id])

    def forget(self, wallet_ids: Collection[WalletId]) -> None:
        """Drop wallets that can't be corrected. Their holds are lost; everything else is loaded again from Postgres."""
        for wallet_id in wallet_ids:
            self._client.unlink(*wallet_keys(wallet_id))


def _read(
    wallet_id: WalletId, fields: Mapping[str, str] | ResponseError, expiring: Sequence[str] | ResponseError
) -> CachedWallet | Unreadable:
    if isinstance(fields, ResponseError) or isinstance(expiring, ResponseError):
        return Unreadable("is of another type")
    try:
        holds = {name[2:]: int(value) for name, value in fields.items() if name.startswith("h:")}
        return CachedWallet(
            epoch=int(fields["epoch"]),
            wallet=Wallet(
                id=wallet_id,
                package_id=fields["package"] or None,
                status=WalletStatus(fields["status"]),
                posted_micros=int(fields["posted"]),
                debt_micros=int(fields["told"]),
                overdraft_limit_micros=int(fields["overdraft"]),
                version=int(fields["version"]),
            ),
            available_micros=int(fields["available"]),
            debt_micros=int(fields["debt"]),
            held_micros=int(fields["held"]),
            marks={UUID(name[2:]): from_entry(value) for name, value in fields.items() if name.startswith("p:")},
            holds=holds,
            endless_holds=frozenset(holds.keys() - set(expiring)),
        )
    except (KeyError, ValueError) as error:
        return Unreadable(f"can't be read: {error}")
