"""Limits on holds: tokens that a run reserves until it ends."""

from __future__ import annotations

HOLD_SECONDS_MAX = 86_400
