"""Remembered answers by idempotency key or process id: the scripts answer a repeated call from these records.

Errors are redis-py's own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from urllib.parse import quote
from uuid import UUID

from redis import Redis
from redis.exceptions import ResponseError

from app.domain.wallets import WalletId
from app.stores.redis.keys import given_back_key, record_key, wallet_keys
from app.stores.redis.scripts import is_of_one_wallet
from app.stores.redis.slices import slices
from app.stores.redis.wallet_calls import EndMark, ExtendCall, StartCall


class Records:
    def __init__(self, client: Redis, *, seconds: int) -> None:
        """`seconds` is how long the answers of ends are remembered."""
        self._client = client
        self.seconds = seconds

    def void(self, ends: Mapping[WalletId, Sequence[UUID]]) -> None:
        """Void the answers remembered for these ends, so that a repeated call is decided and marked as if it were the
        first.

        Nobody will record these ends: their marks are about to be removed, or they were put aside because other ends
        had used their keys before.
        """
        pipeline = self._client.pipeline(transaction=False)
        for wallet_id, end_ids in ends.items():
            key = given_back_key(wallet_id)
            for part in slices(end_ids):
                pipeline.sadd(key, *map(str, part))
            pipeline.expire(key, self.seconds)
        for reply in pipeline.execute(raise_on_error=False):
            if isinstance(reply, Exception) and not is_of_one_wallet(reply):
                raise reply

    def has_ended(self, wallet_id: WalletId, process_id: str) -> bool:
        """Whether an end of this run is remembered."""
        try:
            return bool(self._client.hexists(record_key(wallet_id, "process", process_id), "end"))
        except ResponseError as error:
            if is_of_one_wallet(error):
                return False
            raise


def keys_of_start(call: StartCall) -> list[str]:
    """The wallet's keys and the record of a start that has a key. Users who share a wallet have separate records."""
    kind = f"start:{quote(call.user_id, safe='')}" if call.idempotency_key is not None else ""
    return [*wallet_keys(call.wallet_id), *_record(call.wallet_id, kind, call.idempotency_key)]


def keys_of_extension(call: ExtendCall) -> list[str]:
    return [*wallet_keys(call.wallet_id), *_record(call.wallet_id, "extend", call.idempotency_key)]


def keys_of_end(mark: EndMark) -> list[str]:
    """The wallet's keys, the records of the end's two keys, and the set of ends whose records are void."""
    return [
        *wallet_keys(mark.wallet_id),
        record_key(mark.wallet_id, "key", mark.idempotency_key or ""),
        record_key(mark.wallet_id, "process", mark.process_id or ""),
        given_back_key(mark.wallet_id),
    ]


def _record(wallet_id: WalletId, kind: str, key: str | None) -> list[str]:
    return [] if key is None else [record_key(wallet_id, kind, key)]
