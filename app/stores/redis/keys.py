"""The names of keys. All keys of a wallet carry one hash tag, so that scripts work on Redis Cluster."""

from __future__ import annotations

from functools import lru_cache
from urllib.parse import quote
from uuid import UUID

from app.domain.wallets import WalletId

KEY_PREFIX = "tokentill"
# Ends that are marked but not recorded yet. An end that stays was left behind by a process that died in between.
IN_FLIGHT_KEY = f"{KEY_PREFIX}:in-flight"
# When `InFlight.stranded` first saw each of these ends, by the Redis server's clock.
IN_FLIGHT_SEEN_KEY = f"{KEY_PREFIX}:in-flight-seen"

# Wallets that may have open holds, scored by the latest time at which their last hold ends.
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
    """Ends whose marks were given back: the answers remembered under their keys are void."""
    return _key(wallet_id, "given-back")


def lease_key(wallet_id: WalletId, token: str) -> str:
    return _key(wallet_id, f"lease:{token}")


def record_key(wallet_id: WalletId, kind: str, key: str) -> str:
    """The key under which the answer to a call is remembered."""
    return _key(wallet_id, f"{kind}:{key}")


def in_flight_member(end_id: UUID, wallet_id: WalletId) -> str:
    return f"{end_id}{wallet_id}"


def from_in_flight(member: str) -> tuple[UUID, WalletId]:
    return UUID(member[:36]), WalletId(member[36:])


def _key(wallet_id: WalletId, name: str) -> str:
    return f"{_prefix(wallet_id)}{name}"


# Cached because an end uses five keys of its wallet.
@lru_cache(maxsize=10_000)
def _prefix(wallet_id: WalletId) -> str:
    # Quoted, because a brace in the id would end the hash tag early.
    return f"{KEY_PREFIX}:{{{quote(wallet_id, safe='')}}}:"
