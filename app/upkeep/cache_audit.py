"""Compares cached wallets with Postgres, and their running totals with what they add up.

Redis is read first and Postgres after it. A change in between shows as a difference that is gone a moment later, so
only a difference that is found unchanged at every look is a drift.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from enum import StrEnum
from uuid import UUID

import structlog
from redis.exceptions import ResponseError

from app.access.loader import WalletLoader
from app.access.postgres import PostgresAccess
from app.domain.amounts import token_number
from app.domain.errors import Unavailable
from app.domain.reasons import DriftKind
from app.domain.wallets import UntoldEnd, Wallet, WalletId
from app.stores.postgres import balances, spool_aside
from app.stores.postgres.balances import LoadedWallet
from app.stores.postgres.reconciliation import Drift
from app.stores.redis.in_flight import InFlight
from app.stores.redis.spool import Spool
from app.stores.redis.wallet_snapshot import CachedWallet, Unreadable, WalletSnapshots

log = structlog.get_logger(__name__)

# Pauses between looks. The last one gives the sweep time to refresh copies that a change has left stale.
PAUSES_SECONDS = (0.05, 0.2, 1.0, 3.0)


class Remedy(StrEnum):
    REFRESH = "refreshed"
    RECOUNT = "totals counted anew"
    FORGET = "dropped and loaded anew, without its holds"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong with a cached wallet. Findings of two looks are equal if they say the same."""

    text: str
    remedy: Remedy = Remedy.REFRESH
    abandoned: UUID | None = None


@dataclass(frozen=True, slots=True)
class Suspect:
    """A cached wallet that looks wrong, with what should be spendable and what it says is spendable."""

    findings: frozenset[Finding]
    expected_micros: int
    found_micros: int


class CacheAudit:
    def __init__(
        self,
        *,
        postgres: PostgresAccess,
        snapshots: WalletSnapshots,
        in_flight: InFlight,
        spool: Spool,
        loader: WalletLoader,
        pauses_seconds: Sequence[float] = PAUSES_SECONDS,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._postgres = postgres
        self._snapshots = snapshots
        self._in_flight = in_flight
        self._spool = spool
        self._loader = loader
        self._pauses_seconds = pauses_seconds
        self._sleep = sleep

    def look(self, wallet_ids: Collection[WalletId]) -> dict[WalletId, Suspect]:
        """Cached wallets that look wrong right now. Raises Unavailable or RedisError."""
        cached = self._snapshots.read(wallet_ids)
        if not cached:
            return {}
        marks = [
            (end_id, wallet_id)
            for wallet_id, wallet in cached.items()
            if isinstance(wallet, CachedWallet)
            for end_id in wallet.marks
        ]
        # Read before the inbox. Ends move from these places into the inbox, so an end that is missing here is there.
        in_flight = self._in_flight.holding(marks)
        end_ids = [end_id for end_id, _ in marks]
        in_flight |= self._spool.holding(end_ids)
        in_flight |= self._postgres.run(lambda connection: spool_aside.holding(connection, end_ids))
        stored = self._postgres.run(lambda connection: balances.load(connection, list(cached), end_ids))
        suspects = {}
        for wallet_id, wallet in cached.items():
            suspect = _compare(wallet, stored[wallet_id], in_flight) if wallet_id in stored else None
            if suspect is not None:
                suspects[wallet_id] = suspect
        return suspects

    def confirm(self, suspects: Mapping[WalletId, Suspect]) -> list[Drift]:
        """Look again after each pause, and correct the wallets whose findings persist. Returns these as drifts.

        Raises Unavailable or RedisError.
        """
        suspects = dict(suspects)
        for pause in self._pauses_seconds:
            if not suspects:
                return []
            self._sleep(pause)
            suspects = _persisting(suspects, self.look(suspects))
        if not suspects:
            return []
        unrepaired = _persisting(suspects, self._repaired(suspects))
        return [
            _drift(wallet_id, suspect, is_repaired=wallet_id not in unrepaired)
            for wallet_id, suspect in suspects.items()
        ]

    def _repaired(self, suspects: Mapping[WalletId, Suspect]) -> dict[WalletId, Suspect]:
        """Correct these wallets. Returns those that still look wrong after that."""
        remedies = {wallet_id: _remedy(suspect) for wallet_id, suspect in suspects.items()}
        abandoned = {f.abandoned for suspect in suspects.values() for f in suspect.findings if f.abandoned}
        self._snapshots.forget([wallet_id for wallet_id, remedy in remedies.items() if remedy is Remedy.FORGET])
        for wallet_id, remedy in remedies.items():
            if remedy is Remedy.RECOUNT:
                self._recount_or_forget(wallet_id)
        self._refresh(list(suspects), abandoned)
        return self.look(suspects)

    def _recount_or_forget(self, wallet_id: WalletId) -> None:
        try:
            self._snapshots.recount([wallet_id])
        except ResponseError as error:
            log.warning("wallet_not_recounted", wallet_id=wallet_id, error=str(error)[:200])
            self._snapshots.forget([wallet_id])

    def _refresh(self, wallet_ids: Sequence[WalletId], abandoned: Collection[UUID]) -> None:
        try:
            self._loader.refresh(wallet_ids, abandoned=abandoned)
        except Unavailable:
            # One of the wallets may have changed too often to be filled. The others are corrected.
            log.warning("cache_repair_incomplete", wallets=len(wallet_ids))
        except ResponseError as error:
            if len(wallet_ids) > 1:
                for wallet_id in wallet_ids:
                    self._refresh([wallet_id], abandoned)
                return
            # The cached copy can't be corrected. Drop it: the next call that needs the wallet loads it anew.
            log.warning("wallet_not_refreshed", wallet_id=wallet_ids[0], error=str(error)[:200])
            self._snapshots.forget(wallet_ids)


def _compare(cached: CachedWallet | Unreadable, stored: LoadedWallet, in_flight: Set[UUID]) -> Suspect | None:
    untold_micros = sum(end.cost_micros for end in stored.untold.values())
    expected_micros = stored.wallet.posted_micros - stored.wallet.debt_micros - untold_micros
    if isinstance(cached, Unreadable):
        return Suspect(frozenset([Finding(cached.reason, Remedy.FORGET)]), expected_micros, 0)
    findings = _totals(cached)
    # A copy of an older epoch is loaded anew before it is used, which corrects everything but its totals.
    if cached.epoch >= stored.cache_epoch:
        findings += _rows(cached.wallet, stored.wallet) + _marks(cached, stored, in_flight)
    if not findings:
        return None
    # Ends in flight and holds are unknown to Postgres: deduct them from the expected amount too.
    underway = (cached.marks.keys() & in_flight) - stored.untold.keys()
    expected_micros -= sum(cached.marks[end_id].cost_micros for end_id in underway) + sum(cached.holds.values())
    return Suspect(frozenset(findings), expected_micros, cached.available_micros - cached.held_micros)


def _totals(cached: CachedWallet) -> list[Finding]:
    """Running totals that differ from what they add up. Hashes are read atomically, so no change can explain that."""
    marks, told_micros = cached.marks.values(), cached.wallet.debt_micros
    marked_micros = sum(mark.cost_micros for mark in marks)
    totals = (
        ("available", cached.available_micros, cached.wallet.posted_micros - told_micros - marked_micros),
        ("debt", cached.debt_micros, told_micros + sum(mark.cost_micros for mark in marks if mark.is_failed)),
        ("held", cached.held_micros, sum(cached.holds.values())),
    )
    findings = [
        Finding(f"{name} is {_tokens(found - expected)} off its own sum", Remedy.RECOUNT)
        for name, found, expected in totals
        if found != expected
    ]
    findings += [
        Finding(f"the hold of process {process_id} would never expire", Remedy.RECOUNT)
        for process_id in cached.endless_holds
    ]
    return findings


def _rows(ours: Wallet, stored: Wallet) -> list[Finding]:
    """Where the cached copy differs from the wallet's row in Postgres."""
    if ours.version > stored.version:
        # Such a copy would refuse the row's changes as older ones.
        return [Finding(f"version {ours.version} is ahead of {stored.version}", Remedy.FORGET)]
    if ours.version < stored.version:
        return [Finding(f"version {ours.version} is behind {stored.version}")]
    pairs = (
        ("posted", _tokens(ours.posted_micros), _tokens(stored.posted_micros)),
        ("debt", _tokens(ours.debt_micros), _tokens(stored.debt_micros)),
        ("overdraft limit", _tokens(ours.overdraft_limit_micros), _tokens(stored.overdraft_limit_micros)),
        ("status", ours.status, stored.status),
        ("package", ours.package_id, stored.package_id),
    )
    return [Finding(f"{name} is {found}, not {expected}") for name, found, expected in pairs if found != expected]


def _marks(cached: CachedWallet, stored: LoadedWallet, in_flight: Set[UUID]) -> list[Finding]:
    findings = []
    for end_id, expected in stored.untold.items():
        mark = cached.marks.get(end_id)
        if mark is None:
            findings.append(Finding(f"end {end_id} of {_tokens(expected.cost_micros)} is missing"))
        elif mark != expected:
            findings.append(Finding(f"end {end_id} is {_told(mark)}, not {_told(expected)}"))
    for end_id, mark in cached.marks.items():
        if end_id in stored.untold or (end_id in in_flight and end_id not in stored.told_suspects):
            continue
        if end_id in stored.told_suspects:
            findings.append(Finding(f"end {end_id} of {_tokens(mark.cost_micros)} is told of and still marked"))
        else:
            findings.append(Finding(f"end {end_id} of {_tokens(mark.cost_micros)} is unknown", abandoned=end_id))
    return findings


def _persisting(before: Mapping[WalletId, Suspect], now: Mapping[WalletId, Suspect]) -> dict[WalletId, Suspect]:
    """The findings that both looks have made."""
    persisting = {
        wallet_id: replace(suspect, findings=suspect.findings & before[wallet_id].findings)
        for wallet_id, suspect in now.items()
        if wallet_id in before
    }
    return {wallet_id: suspect for wallet_id, suspect in persisting.items() if suspect.findings}


def _remedy(suspect: Suspect) -> Remedy:
    """The strongest remedy that any of the findings needs."""
    remedies = {finding.remedy for finding in suspect.findings}
    return next(remedy for remedy in (Remedy.FORGET, Remedy.RECOUNT, Remedy.REFRESH) if remedy in remedies)


def _drift(wallet_id: WalletId, suspect: Suspect, *, is_repaired: bool) -> Drift:
    findings = sorted(finding.text for finding in suspect.findings)
    # However many findings a wallet has, its drift names ten, to stay readable.
    told = "; ".join(findings[:10]) + (f"; and {len(findings) - 10} more" if len(findings) > 10 else "")
    return Drift(
        wallet_id=wallet_id,
        kind=DriftKind.CACHE,
        expected_micros=suspect.expected_micros,
        found_micros=suspect.found_micros,
        detail=f"{told} ({_remedy(suspect)})" if is_repaired else f"{told} (not repaired)",
        repaired=is_repaired,
    )


def _told(end: UntoldEnd) -> str:
    return f"{'failed' if end.is_failed else 'covered'} at {_tokens(end.cost_micros)}"


def _tokens(micros: int) -> str:
    return str(token_number(micros))
