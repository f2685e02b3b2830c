"""Parses the JSON of a price list so that errors can be reported by row.

A strict parser would stop at the first NaN or repeated name without saying in which row it is. This one keeps both: NaN
becomes a number that is no valid price, and an object remembers which names it has more than once.
"""

from __future__ import annotations

import json
from collections import Counter
from decimal import Decimal
from typing import Any


class NotReadable(ValueError):
    """The document isn't JSON, or isn't in UTF-8."""


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
