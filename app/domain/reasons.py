"""Why something didn't come to be, in the words that are stored, told and logged.

SQL and Lua write some of them as literals: `tests/unit/test_reasons.py` holds those to these enums.
"""

from __future__ import annotations

from enum import StrEnum


class FailureReason(StrEnum):
    """Why an end isn't deducted (`end_inbox.last_error`), or not even in the inbox (`spool_aside.reason`)."""

    INSUFFICIENT_TOKENS = "insufficient_tokens"
    """The wallet doesn't cover it: a debt, tried again by itself."""
    WALLET_MISSING = "wallet_missing"
    """Its user has no wallet."""
    WALLET_BUSY = "wallet_busy"
    """Somebody keeps the row of its wallet."""
    DEBT_OUT_OF_RANGE = "debt_out_of_range"
    """Its wallet owes more than a sum of debts can hold."""
    QUOTE_DISAGREES = "quote_disagrees"
    """The parts of its price don't add up to its cost: somebody has changed the row."""
    IDEMPOTENCY_KEY_REUSED = "idempotency_key_reused"
    """It was answered 200 while nobody could know that its key had come with another body."""
    NEWER_PAYLOAD = "newer_payload"
    """Its key came first with a body that only a newer version can compare."""
    UNREADABLE = "unreadable"
    """It isn't in a form that this version can read."""
    TOO_SLOW = "too_slow"
    """Every try to settle it ran into its time limit."""
    DATABASE_REFUSED = "database_refused"
    """Postgres refuses to record or to settle it; the log says why."""
    MONEY_DOES_NOT_ADD_UP = "money_does_not_add_up"
    """Settling it would have touched other rows than its own."""


class DriftKind(StrEnum):
    """What a reconciliation finds wrong with a wallet."""

    LEDGER_SUM = "ledger_sum"
    """The posted balance isn't the sum of the ledger's amounts."""
    LEDGER_CHAIN = "ledger_chain"
    """An entry's balance doesn't follow from the one before."""
    BELOW_LIMIT = "below_limit"
    """More is overdrawn than the wallet may."""
    DEBT_SUM = "debt_sum"
    """The wallet's debt isn't the sum of its failed ends that count as debt."""
    WALLET_MISSING = "wallet_missing"
    """Unsettled ends whose wallet there isn't."""
    ROLL_UP = "roll_up"
    """A day's roll-up isn't what its ledger entries add up to."""
    CACHE = "cache"
    """The cached copy isn't what Postgres knows, or doesn't add up in itself."""
    UNCHECKED = "unchecked"
    """The wallet could not be read, so nobody knows."""


class CacheVerdict(StrEnum):
    """What the cached wallet says to a start, or to more of a hold."""

    NO_WALLET = "wallet"
    """Not active, or without a package."""
    NOT_IN_PACKAGE = "feature"
    DENIED = "denied"
    """Too few tokens, or open debt."""
    TOO_MANY_HOLDS = "full"
    GRANTED = "granted"
    SEEN = "seen"
    """What a call of the same key was granted, as it was answered."""
