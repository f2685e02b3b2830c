"""Repricings: past runs that shall be billed by another rate card."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class RepricingState(StrEnum):
    SELECTING = "selecting"
    """Runs are looked for, and what they would cost is computed."""
    READY = "ready"
    """A dry run: nothing is changed unless it is applied."""
    APPLYING = "applying"
    DONE = "done"


class RepricingOutcome(StrEnum):
    """What became of a run of it; else the code of the error that kept it from being amended."""

    AMENDED = "amended"
    UNCHANGED = "unchanged"
    """It cost as much by now."""


@dataclass(frozen=True, slots=True)
class RepricingFilter:
    """Which runs are meant: accepted from a moment on and before another one; what is None doesn't matter."""

    feature_endpoint_id: str | None = None
    model: str | None = None
    user_id: str | None = None
    accepted_from: datetime | None = None
    accepted_to: datetime | None = None
