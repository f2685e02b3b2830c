"""Limits of holds: tokens that a run reserves until it ends."""

from __future__ import annotations

HOLD_SECONDS_MAX = 86_400
# How long a repeated start or extension gets the first answer again, by its idempotency key.
REPEAT_SECONDS = 600
