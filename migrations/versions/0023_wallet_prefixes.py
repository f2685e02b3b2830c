"""Wallets by how their users' ids begin."""

from __future__ import annotations

from migrations.indexes import create_index

revision = "0023"
down_revision = "0022"


def upgrade() -> None:
    create_index("wallets_user_id_prefix", on="wallets (user_id text_pattern_ops)")
