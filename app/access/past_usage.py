"""What the ledger's runs have used, added up a slice of entries at a time: each a statement that nothing waits for."""

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
        """Number of the first and of the last entry since about this moment; (1, 0) where there are none."""
        return self._postgres.run(lambda connection: price_imports.entries_since(connection, since))

    def sums(
        self, first_id: int, last_id: int, *, since: datetime, lengths: Sequence[int], models: Sequence[str]
    ) -> Sequence[UsageSum]:
        """What runs used that were billed in these entries, since this moment. `models` are ids and patterns; of
        others' runs some may come along. `lengths` are those of input by which sums are told apart.
        """
        return self._postgres.run(
            lambda connection: price_imports.usage_sums(
                connection, first_id=first_id, last_id=last_id, since=since, lengths=lengths, models=models
            )
        )
