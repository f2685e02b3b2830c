"""A price list's JSON, read so that what is wrong with it can be told by its row.

A parser that is merely strict stops at the first NaN or repeated name without saying where it stands. This one keeps
both: a NaN becomes a number that no price may be, and an object remembers which of its names it had twice.
"""

from __future__ import annotations

import json
from collections import Counter
from decimal import Decimal
from typing import Any


class NotReadable(ValueError):
    """It isn't JSON, or not in UTF-8."""


class Row(dict[str, Any]):
    """A JSON object."""

    repeated: tuple[str, ...] = ()


def parse(data: bytes) -> Any:
    """Numbers are ints and Decimals, objects are Rows. Raises NotReadable."""
    try:
        return json.loads(data.decode("utf-8-sig"), parse_float=Decimal, parse_constant=Decimal, object_pairs_hook=_row)
    except UnicodeDecodeError:
        raise NotReadable("Must be UTF-8.") from None
    except RecursionError:
        raise NotReadable("Nested too deeply.") from None
    except json.JSONDecodeError as error:
        raise NotReadable(f"Not valid JSON: line {error.lineno}, column {error.colno}.") from None
    except (ValueError, ArithmeticError):
        # A number with more digits, or a larger exponent, than Python reads.
        raise NotReadable("Not valid JSON: a number is too long.") from None


def _row(pairs: list[tuple[str, Any]]) -> Row:
    row = Row(pairs)
    if len(row) != len(pairs):
        counts = Counter(name for name, _ in pairs)
        row.repeated = tuple(name for name, count in counts.items() if count > 1)
    return row
