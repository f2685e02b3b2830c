"""Ids in addresses. Ids may have slashes, so an id is the last part of an address: /console/wallets/top-up/<id>."""

from __future__ import annotations

from werkzeug.routing import BaseConverter, ValidationError

from app.domain.inputs import ID_LENGTH_MAX, identifier


class IdConverter(BaseConverter):
    """Matches ids. An address with a text that can't be an id matches no route, and is answered 404."""

    part_isolating = False
    regex = ".+"

    def to_python(self, value: str) -> str:
        try:
            return identifier(value, ID_LENGTH_MAX)
        except ValueError as error:
            raise ValidationError from error
