"""Who calls: a service knows its users by keys of its own, never by a user id that the caller sends along."""

from __future__ import annotations

import os

USERS = {os.environ.get("DEMO_USER_KEY", "demo-key"): os.environ.get("DEMO_USER_ID", "demo-user")}


def user_of(authorization: str | None) -> str | None:
    """The user id behind `Authorization: Bearer <key>`, or None."""
    return USERS.get((authorization or "").removeprefix("Bearer ").strip())
