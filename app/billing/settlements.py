"""Reports what a committed transaction has settled to the cache and to the log."""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass
from typing import Protocol

import structlog

from app.domain.reasons import FailureReason
from app.stores.postgres.settlement import MoneyDoesNotAddUp, SettledWallet
from app.stores.redis.wallet_calls import WalletChange

log = structlog.get_logger(__name__)


class Changes(Protocol):
    def apply(self, changes: Sequence[WalletChange]) -> None:
        """Bring cached wallets up to committed changes; never raises because a store is away."""


@dataclass(frozen=True, slots=True)
class SettleReport:
    """How many ends a call settled, found settled already, left as debt, or turned into dead letters, and the cost of
    those left as debt.
    """

    settled: int = 0
    repeated: int = 0
    indebted: int = 0
    dead: int = 0
    indebted_micros: int = 0

    def __add__(self, other: SettleReport) -> SettleReport:
        return SettleReport(
            self.settled + other.settled,
            self.repeated + other.repeated,
            self.indebted + other.indebted,
            self.dead + other.dead,
            self.indebted_micros + other.indebted_micros,
        )


def announce(changes: Changes, wallets: Sequence[SettledWallet], request_ids: Set[str]) -> SettleReport:
    """Log a committed settlement and bring the cache up to it; never raises because a store is away."""
    if not wallets:
        return SettleReport()
    report = SettleReport(
        settled=sum(len(wallet.settled) - wallet.repeated for wallet in wallets),
        repeated=sum(wallet.repeated for wallet in wallets),
        indebted=sum(len(wallet.kept) for wallet in wallets),
        indebted_micros=sum(wallet.kept_micros for wallet in wallets),
    )
    log.info(
        "ends_settled",
        settled=report.settled,
        repeated=report.repeated,
        indebted=report.indebted,
        wallets=len(wallets),
        # By its request id a call can be followed from the API's log to here.
        request_ids=sorted(request_ids),
    )
    changes.apply([WalletChange(settled.wallet, settled.told) for settled in wallets])
    return report


def refusal_reason(error: Exception) -> FailureReason:
    """The failure reason of an end that the database refuses to settle."""
    if isinstance(error, MoneyDoesNotAddUp):
        return FailureReason.MONEY_DOES_NOT_ADD_UP
    return FailureReason.DATABASE_REFUSED
