"""Bulk actions: failed ends are selected and frozen, confirmed, then replayed or written off together."""

from __future__ import annotations

from enum import StrEnum


class BulkKind(StrEnum):
    REPLAY = "replay"
    WRITE_OFF = "write_off"


class BulkState(StrEnum):
    DRAFT = "draft"
    """A dry run: nothing is done until it is confirmed, with its count and amount."""
    RUNNING = "running"
    CANCELLING = "cancelling"
    """Cancelled, but the outcomes of ends that were already replayed are still being recorded."""
    DONE = "done"
    CANCELLED = "cancelled"


class BulkOutcome(StrEnum):
    """The result for one end of a bulk action."""

    WRITTEN_OFF = "written_off"
    SETTLED = "settled"
    """Replayed and settled."""
    FAILED_AGAIN = "failed_again"
    """Replayed, and it still fails."""
    ALREADY_SETTLED = "already_settled"
    """Another replay or a top-up has settled it meanwhile."""
    ALREADY_WRITTEN_OFF = "already_written_off"
    CORRECTED = "corrected"
    """A correction has taken it off the debts meanwhile."""
    CHANGED = "changed"
    """Its cost has changed since it was selected, so nothing was done."""
    REFUSED = "refused"
    CANCELLED = "cancelled"
    GONE = "gone"
    """It is neither in the inbox nor in the ledger any more."""


class Fate(StrEnum):
    """Where an end is now that was selected before."""

    ACCEPTED = "accepted"
    """Somebody else has replayed it, and no worker has tried it since."""
    FAILED = "failed"
    SETTLED = "settled"
    WRITTEN_OFF = "written_off"
    CORRECTED = "corrected"
    GONE = "gone"
