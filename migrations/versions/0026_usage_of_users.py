"""An index of roll-ups by user: one user's usage, and a page of users, are found without reading everybody else's."""

from __future__ import annotations

from migrations.indexes import create_index

revision = "0026"
down_revision = "0025"


def upgrade() -> None:
    create_index("usage_daily_user_id", on="usage_daily (user_id, day)")
