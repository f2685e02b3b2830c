"""Calls to cached wallets and their replies, as values, and how the scripts take them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from uuid import UUID

from app.domain.ends import EndRequest
from app.domain.pricing import Price
from app.domain.reasons import CacheVerdict
from app.domain.wallets import Deduction, UntoldEnd, Wallet, WalletId

# A cached wallet that nobody has touched for this long is forgotten. Longer than any hold lives.
IDLE_SECONDS = 48 * 3_600


def milliseconds(seconds: float) -> int:
    """Redis counts in milliseconds."""
    return round(seconds * 1_000)


def moment(milliseconds: int) -> datetime:
    """A time of Redis's clock."""
    return datetime.fromtimestamp(milliseconds / 1_000, UTC)


@dataclass(frozen=True, slots=True)
class StartCall:
    wallet_id: WalletId
    user_id: str
    min_micros: int
    packages: tuple[str, ...]
    process_id: str
    hold_micros: int = 0
    hold_seconds: float = 0
    idempotency_key: str | None = None
    payload_hash: str = ""


@dataclass(frozen=True, slots=True)
class StartReply:
    """The decision of `start.lua`. With `SEEN` all values, the process id included, are those that the first
    call got.
    """

    outcome: CacheVerdict
    available_micros: int
    held_micros: int
    hold_ends_at: datetime | None
    process_id: str
    payload_hash: str

    @property
    def spendable_micros(self) -> int:
        return self.available_micros - self.held_micros


@dataclass(frozen=True, slots=True)
class ExtendCall:
    wallet_id: WalletId
    process_id: str
    more_micros: int
    more_seconds: float
    idempotency_key: str | None
    payload_hash: str


@dataclass(frozen=True, slots=True)
class ExtendReply:
    """The decision of `extend.lua`, and the hold as it is after the call."""

    outcome: CacheVerdict
    available_micros: int
    held_micros: int
    hold_micros: int
    hold_ends_at: datetime
    payload_hash: str

    @property
    def spendable_micros(self) -> int:
        return self.available_micros - self.held_micros


@dataclass(frozen=True, slots=True)
class ReleaseReply:
    """What can be spent after the release, and the amount that the hold reserved: 0 if there was none."""

    spendable_micros: int
    released_micros: int


@dataclass(frozen=True, slots=True)
class OpenHold:
    process_id: str
    amount_micros: int
    ends_at: datetime
    position: str
    """The cursor for holds after this one: its end in milliseconds, a colon, its process id."""


@dataclass(frozen=True, slots=True)
class EndMark:
    wallet_id: WalletId
    end_id: UUID
    price: Price
    payload_hash: str
    idempotency_key: str | None = None
    process_id: str | None = None
    is_free: bool = False
    """Nothing was used: the end only releases the hold and leaves no mark."""


def mark_of(request: EndRequest, wallet_id: WalletId, end_id: UUID, price: Price) -> EndMark:
    """The mark of a priced end on the wallet that pays for it."""
    return EndMark(
        wallet_id=wallet_id,
        end_id=end_id,
        price=price,
        payload_hash=request.payload_hash,
        idempotency_key=request.idempotency_key,
        process_id=request.process_id,
        is_free=request.is_free,
    )


@dataclass(frozen=True, slots=True)
class EndReply:
    """The script's decision; with `seen`, the decision and end id of the first call with this key."""

    end_id: UUID
    payload_hash: str
    spendable_micros: int
    deduction: Deduction
    price: Price
    seen: bool


@dataclass(frozen=True, slots=True)
class WalletChange:
    """A committed change: the wallet after it, and the ends that its row now includes, settled or as debt."""

    wallet: Wallet
    told: Sequence[UUID] = ()


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to fill one wallet, and what the cache knew when the lease was taken."""

    wallet_id: WalletId
    token: str
    epoch: int | None
    marked: frozenset[UUID]


@dataclass(frozen=True, slots=True)
class Fill:
    lease: Lease
    epoch: int
    wallet: Wallet
    marks: Mapping[UUID, UntoldEnd] = field(default_factory=dict)
    forgotten: Sequence[UUID] = ()
    given_back: Sequence[UUID] = ()
    """Those of `forgotten` that nobody will record: the answers remembered under their keys become void."""


def row_arguments(wallet: Wallet) -> list[str | int]:
    """The fields of a wallet's row, in the order that `set_row` of `prelude.lua` takes."""
    return [
        wallet.version,
        wallet.posted_micros,
        wallet.debt_micros,
        wallet.overdraft_limit_micros,
        wallet.status.value,
        wallet.package_id or "",
    ]
