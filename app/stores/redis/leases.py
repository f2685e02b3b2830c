"""Loading wallets into the cache without overwriting a newer state by an older one.

A loader takes a lease, reads Postgres and then fills, which uses the lease up. The fill is refused when the lease is
gone (Redis was flushed, or the loader paused too long) or when Redis knows a newer version. Errors are redis-py's own,
as in `wallet_cache`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID, uuid4

from redis import Redis
from redis.exceptions import ResponseError

from app.domain.wallets import UntoldEnd, WalletId
from app.stores.redis.keys import fence_key, lease_key, wallet_key, wallet_keys
from app.stores.redis.marks import entry_of
from app.stores.redis.records import Records
from app.stores.redis.scripts import WalletScript, WalletScripts, is_of_one_wallet
from app.stores.redis.slices import ITEMS_PER_CALL, slices
from app.stores.redis.wallet_calls import IDLE_SECONDS, Fill, Lease, milliseconds, row_arguments

# How long a loader may take from taking the lease to the fill. Shorter than the life of the fence of `apply.lua`.
LEASE_SECONDS = 5

_MARKS, _FILL = map(WalletScript, ("marks", "fill"))


class WalletLeases:
    def __init__(self, client: Redis, scripts: WalletScripts, records: Records) -> None:
        self._client = client
        self._scripts = scripts
        self._records = records

    def take(self, wallet_ids: Sequence[WalletId]) -> list[Lease]:
        """Take a lease for each wallet. Each lease also has the epoch of the cached copy and the ends marked there."""
        tokens = [uuid4().hex for _ in wallet_ids]
        pipeline = self._client.pipeline(transaction=False)
        for wallet_id, token in zip(wallet_ids, tokens, strict=True):
            # The lease comes first: a change after these reads finds the lease, or the loader, who reads Postgres next,
            # sees it.
            pipeline.set(lease_key(wallet_id, token), "1", px=milliseconds(LEASE_SECONDS))
            pipeline.hget(wallet_key(wallet_id), "epoch")
            pipeline.hlen(wallet_key(wallet_id))
        replies = pipeline.execute(raise_on_error=False)
        leases = []
        for wallet_id, token, *found in zip(
            wallet_ids, tokens, replies[::3], replies[1::3], replies[2::3], strict=True
        ):
            for reply in found:
                if isinstance(reply, Exception) and not is_of_one_wallet(reply):
                    raise reply
            _, epoch, length = found
            try:
                known = None if epoch is None else int(epoch)
                marked = self._marked(wallet_id, int(length))
            except (ResponseError, TypeError, ValueError) as error:
                self._scripts.drop(wallet_id, error)
                known, marked = None, frozenset()
            leases.append(Lease(wallet_id, token, known, marked))
        return leases

    def fill(self, fills: Sequence[Fill]) -> list[bool]:
        """Cache loaded wallets. False means that the fill was refused: load that wallet again.

        True also stands for a wallet that can't be cached at all because its numbers don't fit.
        """
        self._records.void({fill.lease.wallet_id: fill.given_back for fill in fills if fill.given_back})
        marks_calls, marks_of, fill_calls = [], [], []
        for i, fill in enumerate(fills):
            keys = [*wallet_keys(fill.lease.wallet_id), lease_key(fill.lease.wallet_id, fill.lease.token)]
            *before, last = slices([*((end_id, None) for end_id in fill.forgotten), *fill.marks.items()]) or [()]
            for changes in before:
                marks_calls.append(
                    (keys, [milliseconds(LEASE_SECONDS), milliseconds(IDLE_SECONDS), *_mark_arguments(changes)])
                )
                marks_of.append(i)
            arguments = [fill.epoch, *row_arguments(fill.wallet), milliseconds(IDLE_SECONDS), *_mark_arguments(last)]
            fill_calls.append(([*keys, fence_key(fill.lease.wallet_id)], arguments))
        # All marks are set before any fill: a wallet is used from its fill on, and must have all its marks then.
        done: list[bool | None] = [None] * len(fills)
        for i, reply in zip(marks_of, self._scripts.run_all(_MARKS, marks_calls), strict=True):
            if reply != 1:
                done[i] = reply is None
        whole = [i for i, is_done in enumerate(done) if is_done is None]
        for i, reply in zip(whole, self._scripts.run_all(_FILL, [fill_calls[i] for i in whole]), strict=True):
            done[i] = reply != 0
        return [is_done is True for is_done in done]

    def _marked(self, wallet_id: WalletId, fields: int) -> frozenset[UUID]:
        if fields <= ITEMS_PER_CALL:
            names: Any = self._client.hkeys(wallet_key(wallet_id)) if fields else ()
        else:
            names = (name for name, _ in self._client.hscan_iter(wallet_key(wallet_id), count=ITEMS_PER_CALL))
        return frozenset(UUID(name[2:]) for name in names if name.startswith("p:"))


def _mark_arguments(changes: Sequence[tuple[UUID, UntoldEnd | None]]) -> list[Any]:
    """Which marks to remove and which to set, in the form that `fill.lua` and `marks.lua` take."""
    forgotten = [str(end_id) for end_id, end in changes if end is None]
    return [
        len(forgotten),
        *forgotten,
        *(part for end_id, end in changes if end is not None for part in (str(end_id), entry_of(end))),
    ]
