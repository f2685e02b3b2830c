"""An index of deliveries that are under way: they are counted often, beside however many wait."""

from __future__ import annotations

from migrations.indexes import create_index

revision = "0027"
down_revision = "0026"


def upgrade() -> None:
    create_index(
        "webhook_deliveries_leased",
        on="webhook_deliveries (endpoint_id, leased_until)",
        where="leased_until IS NOT NULL",
    )
