"""Finding what a dying process or an absent store left behind, and bringing it to its end."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import sqlalchemy as sa
import structlog

from app.domain.ends import AcceptedEnd
from app.services.postgres_access import PostgresAccess
from app.services.settle import SettleService
from app.services.wallet_loader import WalletLoader
from app.stores.postgres import inbox
from app.stores.redis.spool import Spool
from app.stores.redis.wallet_cache import WalletCache, mark_of

log = structlog.get_logger(__name__)

ENDS_PER_DRAIN = 500
# Longer than any request lives. An end that lands later all the same corrects its wallet itself.
STRANDED_AFTER_SECONDS = 30


class HealService:
    def __init__(
        self,
        *,
        postgres: PostgresAccess,
        cache: WalletCache,
        spool: Spool,
        loader: WalletLoader,
        settlement: SettleService,
    ) -> None:
        self._postgres = postgres
        self._cache = cache
        self._spool = spool
        self._loader = loader
        self._settlement = settlement

    def drain_spool(self) -> int:
        """Move what Redis kept while Postgres was away into the inbox, and settle it; how many ends there were.

        Safe from several workers at once and after dying half-way: ids stay the same, and an end leaves the spool
        only when it is recorded. Raises Unavailable or RedisError.
        """
        drained = 0
        while ends := self._spool.take(ENDS_PER_DRAIN):
            reused = self._postgres.transaction(partial(_record, ends=ends))
            # Their keys had billed before, under another id: these marks stand for nothing.
            self._cache.unmark([mark_of(end.request, end.id, end.cost_micros, end.profit_rule_id) for end in reused])
            self._spool.remove([end.id for end in ends])
            self._settlement.settle([end.id for end in ends])
            drained += len(ends)
            log.info("spool_drained", ends=len(ends), repeated=len(reused))
        return drained

    def release_stranded(self, after_seconds: float = STRANDED_AFTER_SECONDS) -> int:
        """Forget marks whose process died before it could record the end; how many there were.

        Nobody was told yes for them. Raises Unavailable or RedisError.
        """
        stranded = self._cache.stranded(after_seconds)
        if not stranded:
            return 0
        # Looked at before Postgres is: what is neither here nor there is nowhere.
        kept = self._spool.holding(list(stranded))
        users = set(stranded.values())
        self._loader.refresh(users, abandoned=stranded.keys() - kept)
        landed = self._cache.give_up(list(stranded.items()))
        if landed:
            # Their process lived after all, and recorded the end while its mark was being forgotten.
            self._loader.refresh(landed)
        log.warning("stranded_marks_released", ends=len(stranded), wallets=len(users))
        return len(stranded)


def _record(connection: sa.Connection, ends: Sequence[AcceptedEnd]) -> list[AcceptedEnd]:
    """Put ends into the inbox; those that turn out as repeats of an end known under another id."""
    fresh = inbox.insert(connection, ends, were_kept=True)
    known = [end for end in ends if end.id not in fresh and end.request.repeatable]
    if not known:
        return []
    found = inbox.find_keys(
        connection,
        {end.request.idempotency_key for end in known if end.request.idempotency_key is not None},
        {end.request.process_id for end in known if end.request.process_id is not None},
    )
    recorded = {end.end_id for end in found}
    others = [end for end in known if end.id not in recorded]
    hashes = {end.payload_hash for end in found}
    # We said yes to another body under a used key, as nobody could know the key then. It isn't dropped unseen.
    unknown_bodies = [end for end in others if end.request.payload_hash not in hashes]
    if unknown_bodies:
        inbox.bury_reused(connection, unknown_bodies)
    return [end for end in others if end.request.payload_hash in hashes]
