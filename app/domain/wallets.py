"""The decisions on one wallet. Redis makes the same ones in Lua; a test holds both to the same answers."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import NewType

WalletId = NewType("WalletId", str)


def wallet_of(user_id: str) -> WalletId:
    """The wallet that pays for what this user runs: the one place that says so.

    Today each user has a wallet of their own, under the same id. Everything behind the use cases goes by the wallet.
    """
    return WalletId(user_id)


class WalletStatus(StrEnum):
    ACTIVE = "active"
    SUSPENDED = "suspended"
    CLOSED = "closed"


class Access(StrEnum):
    """The guide's words for what start answers."""

    GRANTED = "access-able"
    DENIED = "not-access-able"


class Deduction(StrEnum):
    """The guide's words for what end answers."""

    COVERED = "return-able"
    FAILED = "not-return-able"


@dataclass(frozen=True, slots=True)
class Wallet:
    """What a wallet's row says, as of one `version`. Postgres keeps it, Redis has copies of it.

    There may be ends that it doesn't tell of yet: with them it has a `Balance`.
    """

    id: WalletId
    package_id: str | None
    status: WalletStatus
    posted_micros: int
    debt_micros: int
    overdraft_limit_micros: int
    version: int

    def balance(self, *, pending_micros: int = 0, untold_debt_micros: int = 0) -> Balance:
        """With the ends that its row doesn't tell of."""
        return Balance(
            posted_micros=self.posted_micros,
            pending_micros=pending_micros,
            debt_micros=self.debt_micros + untold_debt_micros,
            overdraft_limit_micros=self.overdraft_limit_micros,
        )


@dataclass(frozen=True, slots=True)
class UntoldEnd:
    """An end that its wallet's row doesn't tell of yet. `is_failed`: the balance didn't cover it when it came."""

    cost_micros: int
    is_failed: bool


@dataclass(frozen=True, slots=True)
class Balance:
    """Micro-tokens of one wallet.

    posted:   what the ledger says
    pending:  accepted ends that the ledger doesn't show yet
    debt:     ends whose deduction has failed so far
    held:     reserved by runs that haven't ended
    """

    posted_micros: int
    pending_micros: int = 0
    debt_micros: int = 0
    held_micros: int = 0
    overdraft_limit_micros: int = 0

    @property
    def covered_micros(self) -> int:
        """What ends can still be deducted from. A hold reserves against starts, not against bills."""
        return self.posted_micros - self.pending_micros - self.debt_micros

    @property
    def spendable_micros(self) -> int:
        return self.covered_micros - self.held_micros


@dataclass(frozen=True, slots=True)
class WalletBalance:
    """A wallet with all that is unsettled. `user_id` is whose it is, `changed_at` when a run, a posting or an operator
    last changed it.
    """

    user_id: str
    wallet: Wallet
    balance: Balance
    changed_at: datetime


def access(balance: Balance, min_micros: int, hold_micros: int = 0) -> Access:
    """May a run start that needs `min_micros`, reserving `hold_micros` (0: none)? Open debt stops every start."""
    room_micros = balance.spendable_micros + balance.overdraft_limit_micros
    granted = balance.debt_micros == 0 and room_micros >= max(min_micros, hold_micros)
    return Access.GRANTED if granted else Access.DENIED


def deduction(balance: Balance, cost_micros: int, own_hold_micros: int = 0) -> Deduction:
    """Does the wallet, down to its overdraft limit, cover this cost? A run without a cost is always covered.

    A run draws on its own hold first, then on what is free, then on what others hold. What it reserved itself debt
    doesn't take away: within its hold it is covered as long as the balance is there.
    """
    after_micros = balance.covered_micros - cost_micros
    if cost_micros <= own_hold_micros:
        after_micros += balance.debt_micros
    covered = cost_micros == 0 or after_micros >= -balance.overdraft_limit_micros
    return Deduction.COVERED if covered else Deduction.FAILED
