"""A provider's report, whatever it is, as it can be logged and handed to a callback."""

from __future__ import annotations

import json
from typing import Any

SEEN_LENGTH_MAX = 500


def as_json(report: Any) -> Any:
    """The report as JSON would have it, or as text where it is no JSON or too long."""
    if report is None:
        return None
    try:
        dump = getattr(report, "model_dump", None)
        fields = dump() if callable(dump) else getattr(report, "__dict__", report)
        written = json.dumps(fields, default=repr)
    except Exception:
        return type(report).__name__
    return json.loads(written) if _is_json(written) else written[:SEEN_LENGTH_MAX]


def _is_json(written: str) -> bool:
    """Short enough, and no NaN: the json module writes it, and hardly anybody else reads it."""
    if len(written) > SEEN_LENGTH_MAX:
        return False
    try:
        json.loads(written, parse_constant=_refuse)
    except ValueError:
        return False
    return True


def _refuse(constant: str) -> Any:
    raise ValueError(constant)
