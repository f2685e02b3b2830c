"""An end: a run's usage as a service server reports it, and the record that promises to bill it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from functools import cached_property
from uuid import UUID

from app.domain.wallets import Deduction


class EndState(StrEnum):
    ACCEPTED = "accepted"
    RETRYING = "retrying"
    DEAD = "dead"


@dataclass(frozen=True)
class EndRequest:
    user_id: str
    feature_endpoint_id: str
    input_tokens: int
    output_tokens: int
    model: str | None = None
    process_id: str | None = None
    idempotency_key: str | None = None
    request_id: str | None = None
    actor: str | None = None

    @cached_property
    def payload_hash(self) -> str:
        """Tells whether a repeated key came with the same body. What comes in headers or is ignored doesn't count."""
        body = (
            self.user_id,
            self.feature_endpoint_id,
            self.input_tokens,
            self.output_tokens,
            self.model,
            self.process_id,
        )
        return hashlib.sha256(json.dumps(body).encode()).hexdigest()

    @property
    def is_free(self) -> bool:
        return self.input_tokens == 0 and self.output_tokens == 0

    @property
    def repeatable(self) -> bool:
        return self.idempotency_key is not None or self.process_id is not None


@dataclass(frozen=True, slots=True)
class AcceptedEnd:
    """An end with its price pinned and its answer decided: one inbox row. The id is a UUID of version 7."""

    id: UUID
    request: EndRequest
    profit_rule_id: int | None
    cost_micros: int
    deduction: Deduction
    spendable_micros: int

    @property
    def decided_at(self) -> datetime:
        """By the clock of the process that took it: the id begins with the milliseconds."""
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
