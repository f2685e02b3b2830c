from __future__ import annotations

import json
from decimal import Decimal

import pytest
import simplejson
from hypothesis import given
from hypothesis import strategies as st

from app.domain.amounts import AMOUNT_MICROS_MAX, micros_from_number, token_number

MICROS = st.integers(-AMOUNT_MICROS_MAX, AMOUNT_MICROS_MAX)


@given(MICROS)
def test_an_amount_survives_the_wire(micros: int) -> None:
    text = simplejson.dumps(token_number(micros), use_decimal=True)
    assert "e" not in text.lower()
    assert not text.endswith(".0")
    assert micros_from_number(json.loads(text, parse_float=Decimal)) == micros


@given(MICROS, st.integers(0, 20))
def test_however_it_is_written_it_is_the_same_amount(micros: int, zeros: int) -> None:
    assert micros_from_number(Decimal(f"{micros}{'0' * zeros}E-{6 + zeros}")) == micros


@pytest.mark.parametrize(
    ("micros", "text"),
    [(989_000_000, "989"), (1, "0.000001"), (-250_000, "-0.25"), (0, "0"), (10, "0.00001")],
)
def test_numbers_are_written_plainly(micros: int, text: str) -> None:
    assert simplejson.dumps(token_number(micros), use_decimal=True) == text


@pytest.mark.parametrize(
    "number",
    [
        "0.0000001",
        "1e-7",
        "1e-999999999",
        "1e400",
        "1e999999999",
        "1000000000.000001",
        "0." + "1" * 5_000,
        "NaN",
        "Infinity",
    ],
)
def test_what_is_not_exact_or_too_large_is_refused(number: str) -> None:
    with pytest.raises(ValueError, match=r"\."):
        micros_from_number(Decimal(number))


def test_zero_is_zero_in_every_spelling() -> None:
    assert {micros_from_number(Decimal(text)) for text in ("0", "-0", "-0.0", "0e10", "0e-99999")} == {0}
    assert micros_from_number(10**9) == AMOUNT_MICROS_MAX
    with pytest.raises(ValueError, match="Too large"):
        micros_from_number(2**63)
