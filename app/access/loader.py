"""Fills the cache from Postgres without overwriting a newer state.

The loader takes a lease in Redis before it reads Postgres, and the fill uses the lease up. A flush or a long pause in
between voids the lease. A change committed in between leaves its version as a fence. In both cases the fill is refused
and the wallet is loaded again.

A state that Redis had before Postgres was read can't be newer than Postgres, unless Postgres has lost commits (a
fail-over to an older copy). Then the cached copy is set back all the same, and marks of ends that exist nowhere any
more are removed.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping, Sequence, Set
from concurrent.futures import Future
from uuid import UUID

import structlog

from app.access.postgres import PostgresAccess
from app.domain.errors import Unavailable
from app.domain.wallets import WalletId
from app.stores.postgres import balances, spool_aside
from app.stores.postgres.system import OVERTAKE
from app.stores.redis.in_flight import InFlight
from app.stores.redis.leases import WalletLeases
from app.stores.redis.lost_wallets import LostWallets, Versions
from app.stores.redis.spool import Spool
from app.stores.redis.wallet_calls import Fill, Lease

log = structlog.get_logger(__name__)

FILL_ATTEMPTS = 8


class WalletLoader:
    def __init__(
        self,
        *,
        postgres: PostgresAccess,
        leases: WalletLeases,
        lost: LostWallets,
        in_flight: InFlight,
        spool: Spool,
    ) -> None:
        self._postgres = postgres
        self._leases = leases
        self._in_flight = in_flight
        self._lost = lost
        self._spool = spool
        self._lock = threading.Lock()
        self._flights: dict[WalletId, Future[bool]] = {}

    def load(self, wallet_ids: Collection[WalletId], epoch: int) -> set[WalletId]:
        """Cache these wallets with at least this epoch. Returns the ids that have no wallet.

        A wallet that can't be cached, because it changes too often or its numbers don't fit, is left out: Postgres
        answers for it. Each wallet is read once, however many callers ask for it at the same time. Raises Unavailable
        when Postgres is away, RedisError when Redis is.
        """
        own: dict[WalletId, Future[bool]] = {}
        joined: dict[WalletId, Future[bool]] = {}
        with self._lock:
            for wallet_id in wallet_ids:
                flight = self._flights.get(wallet_id)
                if flight is None:
                    own[wallet_id] = self._flights[wallet_id] = Future()
                else:
                    joined[wallet_id] = flight
        if own:
            self._fly(own, epoch)
        return {wallet_id for wallet_id, flight in {**own, **joined}.items() if not flight.result()}

    def refresh(self, wallet_ids: Collection[WalletId], *, abandoned: Collection[UUID] = ()) -> None:
        """Correct cached wallets from Postgres, and cache those that weren't cached.

        `abandoned` are marked ends that nobody will record any more: the marks of those that Postgres doesn't know are
        removed. Any other unknown mark stays, because its end may be recorded the next moment. Raises Unavailable when
        Postgres is away, RedisError when Redis is.
        """
        _, refused = self._fill(self._leases.take(list(wallet_ids)), frozenset(abandoned))
        if refused:
            raise Unavailable

    def _fly(self, flights: dict[WalletId, Future[bool]], epoch: int) -> None:
        try:
            leases = self._leases.take(list(flights))
            # Another process may have filled a wallet since our caller looked.
            missing, _ = self._fill([lease for lease in leases if lease.epoch is None or lease.epoch < epoch])
            error: BaseException | None = None
        except BaseException as raised:
            error = raised
        with self._lock:
            for wallet_id in flights:
                del self._flights[wallet_id]
        for wallet_id, flight in flights.items():
            if error is None:
                flight.set_result(wallet_id not in missing)
            else:
                flight.set_exception(error)

    def _fill(
        self, leases: Sequence[Lease], abandoned: Set[UUID] = frozenset()
    ) -> tuple[set[WalletId], Sequence[WalletId]]:
        """Returns the ids that have no wallet, and the wallets whose fill was refused at every attempt."""
        missing: set[WalletId] = set()
        refused: Sequence[WalletId] = []
        for attempt in range(FILL_ATTEMPTS):
            if not leases:
                break
            # Read the cached versions before Postgres, and only after a refused fill: if Postgres still lacks the
            # version for which the fill was refused, Postgres has lost it.
            seen = self._lost.versions([lease.wallet_id for lease in leases]) if attempt else {}
            loaded = self._load(leases)
            abandoned |= self._correct_lost(leases, loaded, seen)
            missing |= {lease.wallet_id for lease in leases if lease.wallet_id not in loaded}
            fills = [
                _as_fill(lease, loaded[lease.wallet_id], abandoned) for lease in leases if lease.wallet_id in loaded
            ]
            filled = self._leases.fill(fills)
            refused = [fill.lease.wallet_id for fill, done in zip(fills, filled, strict=True) if not done]
            leases = self._leases.take(refused) if refused else []
        return missing, refused

    def _correct_lost(
        self,
        leases: Sequence[Lease],
        loaded: Mapping[WalletId, balances.LoadedWallet],
        seen: Mapping[WalletId, Versions],
    ) -> Set[UUID]:
        """Where Redis knows a newer version than Postgres, Postgres has lost it: reset the cached version, so that the
        fill is accepted.

        Returns the marked ends that exist nowhere any more.
        """
        newer = {
            wallet_id: versions
            for wallet_id, versions in seen.items()
            if wallet_id in loaded and versions.highest > loaded[wallet_id].wallet.version
        }
        if newer:
            log.error("cached_wallets_were_newer", wallets=len(newer))
            self._lost.rewind(newer)
        marks = [
            (end_id, lease.wallet_id)
            for lease in leases
            if lease.wallet_id in newer or (lease.wallet_id in loaded and _has_leapt(lease, loaded[lease.wallet_id]))
            for end_id in lease.marked
        ]
        if not marks:
            return frozenset()
        end_ids = [end_id for end_id, _ in marks]
        # In this order an end on its way isn't missed: it is in the spool before it leaves flight, and put aside before
        # it leaves the spool.
        kept = self._in_flight.holding(marks) | self._spool.holding(end_ids)
        return set(end_ids) - kept - self._postgres.run(lambda connection: spool_aside.holding(connection, end_ids))

    def _load(self, leases: Sequence[Lease]) -> dict[WalletId, balances.LoadedWallet]:
        suspects = [end_id for lease in leases for end_id in lease.marked]
        wallet_ids = [lease.wallet_id for lease in leases]
        return self._postgres.run(lambda connection: balances.load(connection, wallet_ids, suspects))


def _has_leapt(lease: Lease, loaded: balances.LoadedWallet) -> bool:
    # A new epoch normally adds one. A process that finds Postgres set back adds OVERTAKE, to pass all epochs lost with
    # it.
    return lease.epoch is not None and loaded.cache_epoch - lease.epoch >= OVERTAKE


def _as_fill(lease: Lease, loaded: balances.LoadedWallet, abandoned: Set[UUID]) -> Fill:
    unknown = lease.marked - loaded.untold.keys()
    return Fill(
        lease=lease,
        epoch=loaded.cache_epoch,
        wallet=loaded.wallet,
        marks=loaded.untold,
        forgotten=sorted(unknown & (loaded.told_suspects | abandoned)),
        given_back=sorted((unknown & abandoned) - loaded.told_suspects),
    )
