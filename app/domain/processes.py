"""Ids of runs. One that start gives says by itself whose it is: nothing has to be remembered or asked to tell.

The form is a UUID of version 7, a hyphen and twelve hexadecimal digits: six that only start's ids have, and six
that follow from the user. Both are plain checksums: they find mix-ups, and are no secret.
"""

from __future__ import annotations

import hashlib
import re

from uuid_utils.compat import uuid7

from app.domain.errors import ProcessOfAnotherUser

_MADE_BY_START = re.compile(r"([0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12})-([0-9a-f]{12})")
_DIGITS = 6


def new_process_id(user_id: str) -> str:
    """An id for a new run of this user."""
    unique = str(uuid7())
    return f"{unique}-{_digits('start', unique)}{_digits('user', unique, user_id)}"


def check_owner(process_id: str | None, user_id: str) -> None:
    """Raises ProcessOfAnotherUser for an id that start gave to somebody else. Any other id is anybody's."""
    found = _MADE_BY_START.fullmatch(process_id or "")
    if found is None:
        return
    unique, check = found.groups()
    is_made_by_start = check[:_DIGITS] == _digits("start", unique)
    if is_made_by_start and check[_DIGITS:] != _digits("user", unique, user_id):
        raise ProcessOfAnotherUser


def _digits(*parts: str) -> str:
    # Two different lists of parts never join to the same text: no part but the last one has a slash.
    return hashlib.sha256("/".join(("tokentill", *parts)).encode()).hexdigest()[:_DIGITS]
