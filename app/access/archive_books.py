"""Books for archiving: archives, and the months of the ledger that move into them, within one transaction."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime
from uuid import UUID

import sqlalchemy as sa

from app.domain.audit import Change
from app.domain.keys import Caller
from app.stores.postgres import archives, audit, rollups
from app.stores.postgres.archives import Archive

# A statement reads a month of ledger entries of all wallets.
SECONDS_MAX = 600.0


class ArchiveBooks:
    def __init__(self, connection: sa.Connection) -> None:
        self._connection = connection

    def now(self) -> datetime:
        return archives.now(self._connection)

    def list_archives(self) -> Sequence[Archive]:
        """Oldest first."""
        return archives.list_archives(self._connection)

    def archived_until(self) -> date | None:
        """The first day whose entries are all still in the ledger. None where nothing has been archived."""
        return archives.archived_until(self._connection)

    def oldest_entry_at(self) -> datetime | None:
        return archives.oldest_entry_at(self._connection)

    def last_entry_before(self, until: datetime) -> int:
        """Id of the last ledger entry before `until`; 0 where there is none."""
        return archives.last_entry_before(self._connection, until, SECONDS_MAX)

    def has_entries(self, last_entry_id: int) -> bool:
        """Whether the ledger has any entry with an id up to this one."""
        return archives.has_entries(self._connection, last_entry_id)

    def broken_wallet(self, last_entry_id: int) -> str | None:
        """A wallet whose entries up to this one don't add up to the balance that the last of them states; None if all
        do.
        """
        return archives.broken_wallet(self._connection, last_entry_id, SECONDS_MAX)

    def has_wrong_rollups(self, day: date) -> bool:
        """Whether a day's roll-ups differ from the sums of its ledger entries."""
        return bool(rollups.wrong(self._connection, day, 1, SECONDS_MAX))

    def seal(self, month: date, *, last_entry_id: int, file_name: str, sha256: str, ends_before: UUID) -> bool:
        """Record that a month's entries are in this file, and store what has to stay of them in the database. False
        where this was done before.
        """
        return archives.seal(
            self._connection,
            month=month,
            last_entry_id=last_entry_id,
            file_name=file_name,
            sha256=sha256,
            ends_before=ends_before,
            seconds=SECONDS_MAX,
        )

    def remove(self, last_entry_id: int, limit: int) -> int:
        """Delete up to `limit` of the oldest entries up to this one. Returns how many were deleted."""
        return archives.remove(self._connection, last_entry_id, limit, SECONDS_MAX)

    def finish(self, month: date) -> None:
        """Record that a month's entries have been deleted from the ledger."""
        archives.finish(self._connection, month)

    def audit(self, caller: Caller, changes: Sequence[Change]) -> None:
        """Write this transaction's changes to the audit log."""
        audit.write_all(self._connection, caller, changes)
