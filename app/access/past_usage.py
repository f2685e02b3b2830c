"""Usage of past runs, summed up from a slice of ledger entries at a time, by short statements that block nobody."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from app.access.postgres import PostgresAccess
from app.stores.postgres import price_imports
from app.stores.postgres.price_imports import UsageSum


class PastUsage:
    def __init__(self, postgres: PostgresAccess) -> None:
        self._postgres = postgres

    def entries_since(self, since: datetime) -> tuple[int, int]:
        """Ids of the first and the last entry since about this moment; (1, 0) where there are none."""
        return self._postgres.run(lambda connection: price_imports.entries_since(connection, since))

    def sums(
        self, first_id: int, last_id: int, *, since: datetime, lengths: Sequence[int], models: Sequence[str]
    ) -> Sequence[UsageSum]:
        """Sums of the usage billed in these entries since this moment. `models` are ids and patterns; some runs of
        other models may be included. `lengths` are the lengths of input at which sums are split.
        """
        return self._postgres.run(
            lambda connection: price_imports.usage_sums(
                connection, first_id=first_id, last_id=last_id, since=since, lengths=lengths, models=models
            )
        )
