"""Bulk actions: failed ends that are replayed or written off together, frozen first, confirmed, then worked off."""

from __future__ import annotations

from enum import StrEnum


class BulkKind(StrEnum):
    REPLAY = "replay"
    WRITE_OFF = "write_off"


class BulkState(StrEnum):
    DRAFT = "draft"
    """A dry run: nothing is done unless it is confirmed, with its count and amount."""
    RUNNING = "running"
    CANCELLING = "cancelling"
    """What was replayed before is still looked after."""
    DONE = "done"
    CANCELLED = "cancelled"


class BulkOutcome(StrEnum):
    """What became of an end of it."""

    WRITTEN_OFF = "written_off"
    SETTLED = "settled"
    """Replayed and settled."""
    FAILED_AGAIN = "failed_again"
    """Replayed, and it still fails."""
    ALREADY_SETTLED = "already_settled"
    """Somebody else's replay or a top-up has settled it meanwhile."""
    ALREADY_WRITTEN_OFF = "already_written_off"
    CORRECTED = "corrected"
    """A correction has taken it off the debts meanwhile."""
    CHANGED = "changed"
    """It costs something else than when it was selected, so nothing was done."""
    REFUSED = "refused"
    CANCELLED = "cancelled"
    GONE = "gone"
    """Neither waiting nor in the ledger any more."""


class Fate(StrEnum):
    """Where an end is found that was selected before."""

    ACCEPTED = "accepted"
    """Somebody has replayed it, and nobody has been at it since."""
    FAILED = "failed"
    SETTLED = "settled"
    WRITTEN_OFF = "written_off"
    CORRECTED = "corrected"
    GONE = "gone"
