"""What binds holds: tokens that a run reserves until it ends."""

from __future__ import annotations

HOLD_SECONDS_MAX = 86_400
# How long a start, or an extension, is answered again under its idempotency key.
REPEAT_SECONDS = 600
