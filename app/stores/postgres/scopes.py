"""Lists of what is made for a feature endpoint, a model or both: profit rules and prices."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import sqlalchemy as sa

from app.domain.reports import Scope


def newest_made_for(table: sa.Table, scope: Scope, before_id: int, limit: int) -> sa.Select[Any]:
    """A page of the rows for this scope, newest first."""
    made_for = [table.c[name] == value for name, value in asdict(scope).items() if value is not None]
    return sa.select(table).where(table.c.id < before_id, *made_for).order_by(table.c.id.desc()).limit(limit)
