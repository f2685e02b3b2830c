"""Replayed dead letters are found without reading all ends that wait."""

from __future__ import annotations

from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    op.execute("CREATE INDEX end_inbox_replayed ON end_inbox (user_id) WHERE state = 'accepted' AND is_debt;")
