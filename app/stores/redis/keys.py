"""The names of keys. All keys of a wallet carry one hash tag, so that scripts work on Redis Cluster."""

from __future__ import annotations

from functools import lru_cache
from urllib.parse import quote
from uuid import UUID

from app.domain.wallets import WalletId

KEY_PREFIX = "tokentill"
# Ends that are marked but not recorded yet. What stays here was left by a process that died in between.
IN_FLIGHT_KEY = f"{KEY_PREFIX}:in-flight"
# When each of them was first seen by a look at what stays, by the server's clock.
IN_FLIGHT_SEEN_KEY = f"{KEY_PREFIX}:in-flight-seen"

# Wallets that may have open holds, by when the last of them is over at the latest.
HOLDERS_KEY = f"{KEY_PREFIX}:holders"


def wallet_keys(wallet_id: WalletId) -> list[str]:
    """The keys that every script on a wallet begins with."""
    return [wallet_key(wallet_id), holds_key(wallet_id)]


def wallet_key(wallet_id: WalletId) -> str:
    return _key(wallet_id, "wallet")


def holds_key(wallet_id: WalletId) -> str:
    return _key(wallet_id, "holds")


def fence_key(wallet_id: WalletId) -> str:
    return _key(wallet_id, "fence")


def given_back_key(wallet_id: WalletId) -> str:
    """Ends whose marks were given back: what their keys were answered is void."""
    return _key(wallet_id, "given-back")


def lease_key(wallet_id: WalletId, token: str) -> str:
    return _key(wallet_id, f"lease:{token}")


def record_key(wallet_id: WalletId, kind: str, key: str) -> str:
    """Where the answer to a call is remembered under its key."""
    return _key(wallet_id, f"{kind}:{key}")


def in_flight_member(end_id: UUID, wallet_id: WalletId) -> str:
    return f"{end_id}{wallet_id}"


def from_in_flight(member: str) -> tuple[UUID, WalletId]:
    return UUID(member[:36]), WalletId(member[36:])


def _key(wallet_id: WalletId, name: str) -> str:
    return f"{_prefix(wallet_id)}{name}"


# An end names five keys of its wallet.
@lru_cache(maxsize=10_000)
def _prefix(wallet_id: WalletId) -> str:
    # Quoted, because a brace in the id would end the hash tag early.
    return f"{KEY_PREFIX}:{{{quote(wallet_id, safe='')}}}:"
