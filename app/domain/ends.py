"""An end: a run's usage as a service server reports it, and the accepted record by which it will be billed."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from functools import cached_property
from uuid import UUID

from app.domain.errors import UnknownPayloadVersion
from app.domain.pricing import Price
from app.domain.usage import Usage
from app.domain.wallets import Deduction, WalletId

# The fields that a body's hash covers, by version of the hash. Hashes are stored for as long as their keys, so a
# version never changes: a new field needs a new version. A body is hashed by the first version that covers all its
# fields, so that it has the same hash whichever release saw it first.
_HASHED_FIELDS = {
    "1": ("user_id", "feature_endpoint_id", "input_tokens", "output_tokens", "model", "process_id"),
    "2": (
        "user_id",
        "feature_endpoint_id",
        "input_tokens",
        "output_tokens",
        "model",
        "process_id",
        "cached_input_tokens",
        "cache_write_tokens",
        "reasoning_tokens",
        "requests",
    ),
}


class EndState(StrEnum):
    ACCEPTED = "accepted"
    RETRYING = "retrying"
    DEAD = "dead"


@dataclass(frozen=True)
class EndRequest:
    user_id: str
    feature_endpoint_id: str
    usage: Usage
    model: str | None = None
    process_id: str | None = None
    idempotency_key: str | None = None
    request_id: str | None = None
    actor: str | None = None

    @cached_property
    def payload_hash(self) -> str:
        """The hash stored with a key, by which a repeated body is told from a different one. Headers and ignored fields
        don't count.
        """
        version = "2" if self.usage.is_by_kind else "1"
        body = [getattr(self.usage if hasattr(self.usage, name) else self, name) for name in _HASHED_FIELDS[version]]
        return f"{version}:{hashlib.sha256(json.dumps(body).encode()).hexdigest()}"

    def has_payload(self, payload_hash: str) -> bool:
        """Whether this body has the hash that was stored when the key was first used.

        Raises UnknownPayloadVersion for a hash that a newer release has made.
        """
        if payload_hash.partition(":")[0] not in _HASHED_FIELDS:
            raise UnknownPayloadVersion
        return self.payload_hash == payload_hash

    @property
    def is_free(self) -> bool:
        return self.usage.is_empty

    @property
    def repeatable(self) -> bool:
        return self.idempotency_key is not None or self.process_id is not None


@dataclass(frozen=True, slots=True)
class AcceptedEnd:
    """An end with its payer and price pinned and its answer decided: one inbox row. `id` is a UUID of version 7."""

    id: UUID
    wallet_id: WalletId
    request: EndRequest
    price: Price
    deduction: Deduction
    spendable_micros: int

    @property
    def decided_at(self) -> datetime:
        """When the end was decided, by the clock of the process that accepted it: the id begins with milliseconds."""
        return datetime.fromtimestamp((self.id.int >> 80) / 1_000, UTC)

    @property
    def state(self) -> EndState:
        return EndState.ACCEPTED if self.deduction is Deduction.COVERED else EndState.RETRYING


@dataclass(frozen=True, slots=True)
class EndAnswer:
    user_id: str
    spendable_micros: int
    cost_micros: int
    deduction: Deduction
    replayed: bool = False
