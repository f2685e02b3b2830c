"""Repricings: past runs that are to be billed by another rate card."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class RepricingState(StrEnum):
    SELECTING = "selecting"
    """Runs are being selected, and their new costs computed."""
    READY = "ready"
    """A dry run: nothing is changed until it is applied."""
    APPLYING = "applying"
    DONE = "done"


class RepricingOutcome(StrEnum):
    """The result for one run of a repricing; otherwise the code of the error that prevented its amendment."""

    AMENDED = "amended"
    UNCHANGED = "unchanged"
    """The run already had the cost that it would have been given."""


@dataclass(frozen=True, slots=True)
class RepricingFilter:
    """Which runs: accepted in the half-open range; a field that is None doesn't filter."""

    feature_endpoint_id: str | None = None
    model: str | None = None
    user_id: str | None = None
    accepted_from: datetime | None = None
    accepted_to: datetime | None = None
