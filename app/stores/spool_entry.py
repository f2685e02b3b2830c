"""The form of an end in the spool, and reading it, possibly by another release than the one that wrote it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import get_type_hints
from uuid import UUID

from app.domain.ends import AcceptedEnd, EndRequest
from app.domain.pricing import Price
from app.domain.usage import Usage
from app.domain.wallets import Deduction

# Raised with every change of an entry's contents: processes of two releases share the spool during an upgrade.
VERSION = 3


class UnreadableEntry(Exception):
    """The entry isn't in the form that this release writes."""


@dataclass(frozen=True, slots=True)
class SpoolEntry:
    """One spooled end: its id, and the rest as JSON. Both are bytes, so that even an invalid entry can be read and
    removed.
    """

    field: bytes
    text: bytes

    @classmethod
    def of(cls, end: AcceptedEnd) -> SpoolEntry:
        fields = asdict(end)
        del fields["id"]
        return cls(str(end.id).encode(), json.dumps({"version": VERSION, **fields}).encode())

    def read(self) -> AcceptedEnd:
        """Parse the end. Raises UnreadableEntry."""
        try:
            fields = json.loads(self.text)
            # JSON can contain surrogate halves, which nothing that an end passes through accepts.
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
            # Raises for a time that is out of range.
            _ = end.decided_at
        except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
            raise UnreadableEntry(f"{type(error).__name__}: {error}") from error
        return end


def _check_types(record: AcceptedEnd | EndRequest | Price | Usage) -> None:
    for name, kind in get_type_hints(type(record)).items():
        value = getattr(record, name)
        # A NewType is a plain string at run time: compare with its supertype.
        if not isinstance(value, getattr(kind, "__supertype__", kind)):
            raise TypeError(f"{name} is {type(value).__name__}")
