"""What all tables have in common."""

from __future__ import annotations

import sqlalchemy as sa

metadata = sa.MetaData()

now = sa.text("now()")


def created_at() -> sa.Column[object]:
    return sa.Column("created_at", sa.TIMESTAMP(timezone=True), nullable=False, server_default=now)
