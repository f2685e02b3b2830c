"""Filters of lists. They are in the page's address, so that it can be bookmarked and sent to others.

Unknown parameters are refused, as a list that ignored one would show something that wasn't asked for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlencode

from flask import request
from werkzeug.exceptions import BadRequest

from app.console.changes import DONE_PARAMETER
from app.console.forms import Field, Filled, Form

PAGING = ("limit", "cursor")


class Filters:
    def __init__(self, *fields: Field) -> None:
        """No field may be required."""
        self._form = Form(fields)

    def read(self) -> Filtered:
        """Read the filters in the address. Raises BadRequest for a parameter that this page doesn't know."""
        known = {each.name for each in self._form.fields}
        unknown = [name for name in request.args if name not in known and name not in (*PAGING, DONE_PARAMETER)]
        if unknown:
            raise BadRequest(f"This page has no filter {', '.join(map(repr, unknown))}.")
        return Filtered(self._form.read(request.args))


class Filtered:
    """The filters of a list, as given. If one is wrong, `is_valid` is false and nothing must be listed."""

    def __init__(self, filled: Filled) -> None:
        self.filled = filled

    @property
    def is_valid(self) -> bool:
        return self.filled.is_valid

    @property
    def status(self) -> int:
        return 200 if self.is_valid else 400

    @property
    def values(self) -> Mapping[str, Any]:
        """The values of the filters that are given."""
        return {name: value for name, value in self.filled.values.items() if value not in (None, [], False)}

    @property
    def are_given(self) -> bool:
        return bool(self.filled.pairs())

    def query(self, **more: Any) -> str:
        """The filters as the query of an address, with those in `more` replaced, or removed if None."""
        pairs: Sequence[tuple[str, str]] = [pair for pair in self.filled.pairs() if pair[0] not in more]
        found = [*pairs, *((name, str(value)) for name, value in more.items() if value is not None)]
        return f"?{urlencode(found)}" if found else ""
