"""Ids of runs. An id given by start shows by itself which user it belongs to, so nothing has to be stored or looked up.

The form is a UUID of version 7, a hyphen and twelve hexadecimal digits: six that only ids of start have, and six that
follow from the user. Both are plain checksums: they detect mix-ups and are not secret.
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
    """Raises ProcessOfAnotherUser for an id that start gave to another user. Any other id may be used by anybody."""
    found = _MADE_BY_START.fullmatch(process_id or "")
    if found is None:
        return
    unique, check = found.groups()
    is_made_by_start = check[:_DIGITS] == _digits("start", unique)
    if is_made_by_start and check[_DIGITS:] != _digits("user", unique, user_id):
        raise ProcessOfAnotherUser


def _digits(*parts: str) -> str:
    # Two different lists of parts never join to the same text: only the last part can contain a slash.
    return hashlib.sha256("/".join(("tokentill", *parts)).encode()).hexdigest()[:_DIGITS]
