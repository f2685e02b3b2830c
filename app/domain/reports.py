"""What reports and lists can be asked for: days and moments, groups, filters.

Every range is half-open, `since` included and `until` excluded, so that months follow each other without a gap.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime
from enum import StrEnum

from app.domain import inputs


class Group(StrEnum):
    """By what usage can be grouped."""

    DAY = "day"
    FEATURE = "feature_endpoint_id"
    MODEL = "model"
    USER = "user_id"
    PRICE = "price_id"


class EntryKind(StrEnum):
    """Kinds of ledger entries."""

    USAGE = "usage"
    TOP_UP = "top_up"
    REFUND = "refund"
    ADJUSTMENT = "adjustment"
    WRITE_OFF = "write_off"
    REVERSAL = "reversal"
    AMENDMENT = "amendment"
    CHARGEBACK = "chargeback"


# Kinds that can wait in the inbox: a run, or what a correction or a chargeback charges.
CHARGE_KINDS = (EntryKind.USAGE, EntryKind.AMENDMENT, EntryKind.CHARGEBACK)
# Kinds that are about a run: roll-ups count these.
RUN_KINDS = (EntryKind.USAGE, EntryKind.REVERSAL, EntryKind.AMENDMENT, EntryKind.WRITE_OFF)


@dataclass(frozen=True, slots=True)
class Usage:
    """Which usage is summed up; a field that is None doesn't filter."""

    since: date | None = None
    until: date | None = None
    groups: tuple[Group, ...] = ()
    package_id: str | None = None
    feature_endpoint_id: str | None = None
    model: str | None = None
    user_id: str | None = None
    price_id: int | None = None
    """0 selects what was priced by the default rule."""
    kind: EntryKind | None = None


@dataclass(frozen=True, slots=True)
class Entries:
    """Which ledger entries; a field that is None doesn't filter. `package_id` is the package that the wallet
    has now.
    """

    since: datetime | None = None
    until: datetime | None = None
    package_id: str | None = None
    feature_endpoint_id: str | None = None
    model: str | None = None
    user_id: str | None = None
    price_id: int | None = None
    kind: EntryKind | None = None


@dataclass(frozen=True, slots=True)
class Wallets:
    """Which wallets; a field that is None doesn't filter. Balances are posted balances."""

    package_id: str | None = None
    status: str | None = None
    search: str | None = None
    """A part of the user id, in upper or lower case."""
    prefix: str | None = None
    """The beginning of the user id."""
    in_debt: bool | None = None
    with_holds: bool | None = None
    balance_below_micros: int | None = None
    balance_above_micros: int | None = None


class WalletSort(StrEnum):
    """By what wallets are sorted."""

    USER = "user_id"
    BALANCE = "balance"
    DEBT = "debt"
    ACTIVITY = "activity"


@dataclass(frozen=True, slots=True)
class WalletOrder:
    by: WalletSort = WalletSort.USER
    is_descending: bool = False

    @classmethod
    def named(cls, text: str) -> WalletOrder:
        """An order as it is written: `balance`, or `-balance` for the highest first. Raises ValueError."""
        try:
            return cls(WalletSort(text.removeprefix("-")), text.startswith("-"))
        except ValueError:
            raise ValueError(f"Must be {', '.join(WalletSort)}, or one of them behind a minus.") from None

    @property
    def name(self) -> str:
        return f"-{self.by}" if self.is_descending else str(self.by)


@dataclass(frozen=True, slots=True)
class Scope:
    """Which rules or prices: those made for this feature endpoint, for exactly this text as model, or for both."""

    feature_endpoint_id: str | None = None
    model: str | None = None


def day(text: str) -> date:
    """A day as it is written, 2030-01-31. Raises ValueError."""
    try:
        found = date.fromisoformat(text)
    except ValueError:
        raise ValueError("Must be a day, such as 2030-01-31.") from None
    if found.isoformat() != text:
        raise ValueError("Must be a day, such as 2030-01-31.")
    return found


def midnight(of: date) -> datetime:
    """The moment at which a day begins, in UTC."""
    return datetime(of.year, of.month, of.day, tzinfo=UTC)


def moment_or_day(value: object) -> datetime:
    """A moment as it is written, or for a day its beginning. Raises ValueError."""
    try:
        return midnight(day(str(value)))
    except ValueError:
        return inputs.moment(value)


def month(text: str) -> tuple[date, date]:
    """The first day of a month written as 2030-01, and of the month after it. Raises ValueError."""
    try:
        first = day(f"{text}-01")
    except ValueError:
        raise ValueError("Must be a month, such as 2030-01.") from None
    if first.year == date.max.year and first.month == 12:
        raise ValueError("Must be before the year 9999 ends.")
    return first, next_month(first)


def next_month(first: date) -> date:
    """The first day of the month after."""
    return date(first.year + first.month // 12, first.month % 12 + 1, 1)


def groups(text: str) -> tuple[Group, ...]:
    """The groups named in a comma-separated list, each at most once. Raises ValueError."""
    return inputs.some_of(Group, text)
