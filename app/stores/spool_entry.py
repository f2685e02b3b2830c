"""What an end looks like in the spool, and reading it again, maybe by another version than wrote it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import get_type_hints
from uuid import UUID

from app.domain.ends import AcceptedEnd, EndRequest
from app.domain.pricing import Price
from app.domain.usage import Usage
from app.domain.wallets import Deduction

# Raised with every change of what an entry has in it: processes of two versions share the spool during an upgrade.
VERSION = 3


class UnreadableEntry(Exception):
    """Not what this version writes."""


@dataclass(frozen=True, slots=True)
class SpoolEntry:
    """One end as it is kept: its id, and the rest as JSON. As bytes, so that whatever stands there can be taken."""

    field: bytes
    text: bytes

    @classmethod
    def of(cls, end: AcceptedEnd) -> SpoolEntry:
        fields = asdict(end)
        del fields["id"]
        return cls(str(end.id).encode(), json.dumps({"version": VERSION, **fields}).encode())

    def read(self) -> AcceptedEnd:
        """The end. Raises UnreadableEntry."""
        try:
            fields = json.loads(self.text)
            # JSON can hold halves of surrogate pairs. Nothing that an end goes through does.
            json.dumps(fields, ensure_ascii=False).encode()
            version = fields.pop("version")
            if version != VERSION:
                raise UnreadableEntry(f"version {version!r}")
            request_fields = fields.pop("request")
            usage = Usage(**request_fields.pop("usage"))
            request = EndRequest(usage=usage, **request_fields)
            price = Price(**fields.pop("price"))
            deduction = Deduction(fields.pop("deduction"))
            end = AcceptedEnd(id=UUID(self.field.decode()), request=request, price=price, deduction=deduction, **fields)
            for record in (usage, request, price, end):
                _check_types(record)
            if end.id.version != 7:
                raise UnreadableEntry("the id tells no moment")
            # Raises for a moment that no calendar has.
            _ = end.decided_at
        except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
            raise UnreadableEntry(f"{type(error).__name__}: {error}") from error
        return end


def _check_types(record: AcceptedEnd | EndRequest | Price | Usage) -> None:
    for name, kind in get_type_hints(type(record)).items():
        value = getattr(record, name)
        # An id's own type is a text like any other to the interpreter.
        if not isinstance(value, getattr(kind, "__supertype__", kind)):
            raise TypeError(f"{name} is {type(value).__name__}")
