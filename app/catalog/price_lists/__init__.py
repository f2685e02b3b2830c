"""Reads price lists that others publish. Pure functions, from a list's bytes to rate cards, or to what is wrong."""

from __future__ import annotations

from typing import Any

from app.catalog.price_lists import litellm, models_dev
from app.catalog.price_lists.listed import Format, PriceList, Reading, Selection, repeated_names
from app.domain.errors import PriceListRefused

__all__ = ["Format", "PriceList", "Selection", "read_price_list"]

_READERS = {Format.LITELLM: litellm.read, Format.MODELS_DEV: models_dev.read}


def read_price_list(document: Any, *, list_format: Format, selection: Selection, micros_per_dollar: int) -> PriceList:
    """The prices of a parsed list, in micro-tokens. Raises PriceListRefused, with the rows that are wrong."""
    if not isinstance(document, dict):
        raise PriceListRefused("Price list refused: it is a JSON object in either format")
    reading = Reading()
    repeated_names("", document, reading.problems)
    _READERS[list_format](document, selection, micros_per_dollar, reading)
    return reading.concluded(selection)
