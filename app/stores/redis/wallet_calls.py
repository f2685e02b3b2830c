"""What is asked of cached wallets and what they answer, as values, and as the scripts take them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from uuid import UUID

from app.domain.ends import EndRequest
from app.domain.pricing import Price
from app.domain.reasons import CacheVerdict
from app.domain.wallets import Deduction, UntoldEnd, Wallet, WalletId

# A wallet that nobody has touched for this long is forgotten; longer than any hold lives.
IDLE_SECONDS = 48 * 3_600


def milliseconds(seconds: float) -> int:
    """As Redis counts."""
    return round(seconds * 1_000)


def moment(milliseconds: int) -> datetime:
    """Of Redis's clock."""
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
    """As `start.lua` decided; `SEEN` is answered as the first call of its key was, process id included."""

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
    """As `extend.lua` decided; the hold as it is after the call."""

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
    """What can be spent after it, and what the hold reserved: 0 if there was none."""

    spendable_micros: int
    released_micros: int


@dataclass(frozen=True, slots=True)
class OpenHold:
    process_id: str
    amount_micros: int
    ends_at: datetime
    position: str
    """Where a list goes on after it: its end in milliseconds, a colon, its process id."""


@dataclass(frozen=True, slots=True)
class EndMark:
    wallet_id: WalletId
    end_id: UUID
    price: Price
    payload_hash: str
    idempotency_key: str | None = None
    process_id: str | None = None
    is_free: bool = False
    """Nothing was used: only the hold ends, and no mark is left."""


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
    """What the script decided, or (`seen`) decided when the key came first, under the first call's end id."""

    end_id: UUID
    payload_hash: str
    spendable_micros: int
    deduction: Deduction
    price: Price
    seen: bool


@dataclass(frozen=True, slots=True)
class WalletChange:
    """A committed change: the wallet after it, and the ends that its row tells of now, as settled or as debt."""

    wallet: Wallet
    told: Sequence[UUID] = ()


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to fill one wallet, and what the cache knew when it was taken."""

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
    """Those of the forgotten that nobody is going to record: what their keys were answered is void."""


def row_arguments(wallet: Wallet) -> list[str | int]:
    """What a wallet's row says, as `set_row` of `prelude.lua` takes it."""
    return [
        wallet.version,
        wallet.posted_micros,
        wallet.debt_micros,
        wallet.overdraft_limit_micros,
        wallet.status.value,
        wallet.package_id or "",
    ]
