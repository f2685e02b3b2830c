"""Decisions about one wallet. Redis makes the same decisions in Lua; a test compares the answers of both."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import NewType

WalletId = NewType("WalletId", str)


def wallet_of(user_id: str) -> WalletId:
    """The wallet that pays for this user's runs. This is the only place that decides it.

    Today each user has a wallet of their own with the same id. All code below the use cases goes by wallet id.
    """
    return WalletId(user_id)


class WalletStatus(StrEnum):
    ACTIVE = "active"
    SUSPENDED = "suspended"
    CLOSED = "closed"


class Access(StrEnum):
    """The guide's words for the answer to start."""

    GRANTED = "access-able"
    DENIED = "not-access-able"


class Deduction(StrEnum):
    """The guide's words for the answer to end."""

    COVERED = "return-able"
    FAILED = "not-return-able"


@dataclass(frozen=True, slots=True)
class Wallet:
    """A wallet's row, as of one `version`. Postgres keeps it; Redis has a copy.

    Ends that the row doesn't include yet are added in `Balance`.
    """

    id: WalletId
    package_id: str | None
    status: WalletStatus
    posted_micros: int
    debt_micros: int
    overdraft_limit_micros: int
    version: int

    def balance(self, *, pending_micros: int = 0, untold_debt_micros: int = 0) -> Balance:
        """The balance with the ends that the row doesn't include yet."""
        return Balance(
            posted_micros=self.posted_micros,
            pending_micros=pending_micros,
            debt_micros=self.debt_micros + untold_debt_micros,
            overdraft_limit_micros=self.overdraft_limit_micros,
        )


@dataclass(frozen=True, slots=True)
class UntoldEnd:
    """An end that its wallet's row doesn't include yet. `is_failed`: the balance didn't cover it when it was
    accepted.
    """

    cost_micros: int
    is_failed: bool


@dataclass(frozen=True, slots=True)
class Balance:
    """Micro-tokens of one wallet.

    posted:   the sum of the ledger
    pending:  accepted ends that aren't in the ledger yet
    debt:     ends that could not be settled so far
    held:     reserved by runs that haven't ended
    """

    posted_micros: int
    pending_micros: int = 0
    debt_micros: int = 0
    held_micros: int = 0
    overdraft_limit_micros: int = 0

    @property
    def covered_micros(self) -> int:
        """What ends can still be settled from. A hold reserves tokens against starts, not against bills."""
        return self.posted_micros - self.pending_micros - self.debt_micros

    @property
    def spendable_micros(self) -> int:
        return self.covered_micros - self.held_micros


@dataclass(frozen=True, slots=True)
class WalletBalance:
    """A wallet with all that is unsettled. `user_id` is its owner; `changed_at` is when a run, a posting or an operator
    last changed it.
    """

    user_id: str
    wallet: Wallet
    balance: Balance
    changed_at: datetime


def access(balance: Balance, min_micros: int, hold_micros: int = 0) -> Access:
    """Whether a run may start that needs `min_micros` and reserves `hold_micros` (0: none). Open debt stops every
    start.
    """
    room_micros = balance.spendable_micros + balance.overdraft_limit_micros
    granted = balance.debt_micros == 0 and room_micros >= max(min_micros, hold_micros)
    return Access.GRANTED if granted else Access.DENIED


def deduction(balance: Balance, cost_micros: int, own_hold_micros: int = 0) -> Deduction:
    """Whether the wallet, down to its overdraft limit, covers this cost. A run without cost is always covered.

    A run draws first on its own hold, then on what is free, then on what others hold. Debt doesn't take what the run
    reserved itself: within its hold it is covered as long as the balance is there.
    """
    after_micros = balance.covered_micros - cost_micros
    if cost_micros <= own_hold_micros:
        after_micros += balance.debt_micros
    covered = cost_micros == 0 or after_micros >= -balance.overdraft_limit_micros
    return Deduction.COVERED if covered else Deduction.FAILED
