"""Marks of ends whose process died before it could record them: forgotten, so that nothing is taken for them."""

from __future__ import annotations

import structlog

from app.access.loader import WalletLoader
from app.access.postgres import PostgresAccess
from app.stores.postgres import spool_aside
from app.stores.redis.in_flight import InFlight
from app.stores.redis.spool import Spool

log = structlog.get_logger(__name__)

# Longer than any request lives. An end that lands later all the same corrects its wallet itself.
STRANDED_AFTER_SECONDS = 30


class StrandedMarks:
    def __init__(self, *, postgres: PostgresAccess, in_flight: InFlight, spool: Spool, loader: WalletLoader) -> None:
        self._postgres = postgres
        self._in_flight = in_flight
        self._spool = spool
        self._loader = loader

    def release(self, after_seconds: float = STRANDED_AFTER_SECONDS) -> int:
        """Forget marks whose process died before it could record the end; how many there were.

        Nobody was told yes for them. Raises Unavailable or RedisError.
        """
        stranded = self._in_flight.stranded(after_seconds)
        if not stranded:
            return 0
        # Looked at before Postgres is: what is neither here nor there is nowhere.
        kept = self._spool.holding(list(stranded))
        kept |= self._postgres.run(lambda connection: spool_aside.holding(connection, list(stranded)))
        wallet_ids = set(stranded.values())
        self._loader.refresh(wallet_ids, abandoned=stranded.keys() - kept)
        landed = self._in_flight.give_up(list(stranded.items()))
        if landed:
            # Their process lived after all, and recorded the end while its mark was being forgotten.
            self._loader.refresh(landed)
        log.warning("stranded_marks_released", ends=len(stranded), wallets=len(wallet_ids))
        return len(stranded)
