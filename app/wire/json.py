"""How answers are written: amounts digit by digit, as the Decimals that they are."""

from __future__ import annotations

from typing import Any

import msgspec

_encoder = msgspec.json.Encoder(decimal_format="number")


def write(value: Any) -> bytes:
    return _encoder.encode(value)


def write_readable(value: Any) -> str:
    """The same over several lines, for people."""
    return msgspec.json.format(write(value), indent=2).decode()
