"""Removes marks from cached wallets whose process died before it recorded their ends, so that they take no tokens."""

from __future__ import annotations

import structlog

from app.access.loader import WalletLoader
from app.access.postgres import PostgresAccess
from app.stores.postgres import spool_aside
from app.stores.redis.in_flight import InFlight
from app.stores.redis.spool import Spool

log = structlog.get_logger(__name__)

# Longer than any request takes. If an end is recorded even later, the process that records it corrects the wallet.
STRANDED_AFTER_SECONDS = 30


class StrandedMarks:
    def __init__(self, *, postgres: PostgresAccess, in_flight: InFlight, spool: Spool, loader: WalletLoader) -> None:
        self._postgres = postgres
        self._in_flight = in_flight
        self._spool = spool
        self._loader = loader

    def release(self, after_seconds: float = STRANDED_AFTER_SECONDS) -> int:
        """Remove marks whose process died before it recorded the end. Returns how many there were.

        No such end was ever confirmed to its caller. Raises Unavailable or RedisError.
        """
        stranded = self._in_flight.stranded(after_seconds)
        if not stranded:
            return 0
        # Ends move from the spool to `spool_aside` and the inbox, so read in this order: an end that is in none of them
        # is recorded nowhere.
        kept = self._spool.holding(list(stranded))
        kept |= self._postgres.run(lambda connection: spool_aside.holding(connection, list(stranded)))
        wallet_ids = set(stranded.values())
        self._loader.refresh(wallet_ids, abandoned=stranded.keys() - kept)
        landed = self._in_flight.give_up(list(stranded.items()))
        if landed:
            # The process was alive after all, and recorded the end while its mark was being removed.
            self._loader.refresh(landed)
        log.warning("stranded_marks_released", ends=len(stranded), wallets=len(wallet_ids))
        return len(stranded)
