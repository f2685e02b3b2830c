"""Reasons why something failed, in the words that are stored, returned and logged.

SQL and Lua write some of them as literals: `tests/unit/test_reasons.py` checks those against these enums.
"""

from __future__ import annotations

from enum import StrEnum


class FailureReason(StrEnum):
    """Why an end isn't settled (`end_inbox.last_error`), or not even in the inbox (`spool_aside.reason`)."""

    INSUFFICIENT_TOKENS = "insufficient_tokens"
    """The wallet doesn't cover the end: it is a debt and is retried automatically."""
    WALLET_MISSING = "wallet_missing"
    """Its user has no wallet."""
    WALLET_BUSY = "wallet_busy"
    """Another session keeps the wallet's row locked."""
    DEBT_OUT_OF_RANGE = "debt_out_of_range"
    """The debt would take the wallet's sum of debts above its maximum."""
    QUOTE_DISAGREES = "quote_disagrees"
    """The parts of the end's price don't add up to its cost: somebody has changed the row."""
    IDEMPOTENCY_KEY_REUSED = "idempotency_key_reused"
    """The end was answered 200 while nobody could know that its key had been used with another body."""
    NEWER_PAYLOAD = "newer_payload"
    """The key was first used with a body that only a newer release can compare."""
    UNREADABLE = "unreadable"
    """This release can't read the entry's form."""
    TOO_SLOW = "too_slow"
    """Every try to settle the end exceeded its time limit."""
    DATABASE_REFUSED = "database_refused"
    """Postgres refuses to record or to settle the end; the log says why."""
    MONEY_DOES_NOT_ADD_UP = "money_does_not_add_up"
    """Settling the end would have touched other rows than its own."""


class DriftKind(StrEnum):
    """What a reconciliation finds wrong with a wallet."""

    LEDGER_SUM = "ledger_sum"
    """The posted balance isn't the sum of the ledger's amounts."""
    LEDGER_CHAIN = "ledger_chain"
    """An entry's balance doesn't follow from the one before."""
    BELOW_LIMIT = "below_limit"
    """The wallet is overdrawn beyond its overdraft limit."""
    DEBT_SUM = "debt_sum"
    """The wallet's debt isn't the sum of its failed ends that count as debt."""
    WALLET_MISSING = "wallet_missing"
    """There are unsettled ends whose wallet doesn't exist."""
    ROLL_UP = "roll_up"
    """A day's roll-up differs from the sum of its ledger entries."""
    CACHE = "cache"
    """The cached copy differs from Postgres, or its totals don't match its own marks and holds."""
    UNCHECKED = "unchecked"
    """The wallet could not be read, so its state is unknown."""


class CacheVerdict(StrEnum):
    """The cached wallet's answer to a start or to an extension of a hold."""

    NO_WALLET = "wallet"
    """Not active, or without a package."""
    NOT_IN_PACKAGE = "feature"
    DENIED = "denied"
    """Too few tokens, or open debt."""
    TOO_MANY_HOLDS = "full"
    GRANTED = "granted"
    SEEN = "seen"
    """The answer that the first call with this key got."""
