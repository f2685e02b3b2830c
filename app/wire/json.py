"""Writes answers as JSON. Amounts are Decimals, and are written exactly."""

from __future__ import annotations

from typing import Any

import msgspec

_encoder = msgspec.json.Encoder(decimal_format="number")


def write(value: Any) -> bytes:
    return _encoder.encode(value)


def write_readable(value: Any) -> str:
    """Write JSON over several lines, for people."""
    return msgspec.json.format(write(value), indent=2).decode()
