"""What the description says of texts and amounts is what the checks take: no more and no less."""

from __future__ import annotations

import re
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from app.domain import inputs
from app.domain.amounts import AMOUNT_MICROS_MAX, MICROS_PER_TOKEN
from app.domain.inputs import ID_LENGTH_MAX
from app.domain.keys import RESERVED_NAMES, key_name
from app.http.schemas import shapes
from app.http.schemas.shapes import Shape

Check = Callable[[Any], object]

# Made of what decides, so that many fit and many nearly do.
PARTS = ["a", "B", "9", "-", "_", ".", "..", "/", "*", " ", "é", "\n", "\x7f", "\u2028", "\u202e", "\u200f", "x" * 127]
TEXTS = st.lists(st.sampled_from([*PARTS, *inputs.WALLET_PARTS, *sorted(RESERVED_NAMES), "Admin"]), max_size=5).map(
    "".join
) | st.text(st.characters(exclude_categories=["Cs"]), max_size=10)

TEXT_SHAPES: dict[str, tuple[Shape, Check]] = {
    "identifier": (shapes.identifier(), lambda text: inputs.identifier(text, ID_LENGTH_MAX)),
    "printable": (shapes.printable(20), lambda text: inputs.printable(text, 20)),
    "path_id": (shapes.path_id(), inputs.path_id),
    "new_user_id": (shapes.new_user_id(), inputs.new_user_id),
    "key_name": (shapes.key_name(), key_name),
}


def fits(shape: Shape, text: str) -> bool:
    """As JSON Schema reads it, whose `$` is the very end."""
    pattern = shape["pattern"].removesuffix("$") + r"\Z"
    return shape["minLength"] <= len(text) <= shape["maxLength"] and re.search(pattern, text) is not None


def is_taken(check: Check, value: object) -> bool:
    try:
        check(value)
    except ValueError:
        return False
    return True


@pytest.mark.parametrize("name", list(TEXT_SHAPES))
@given(text=TEXTS)
@example("")
@example("a\n")
@example("a/../b")
@example("a/holds/b")
@example("holds")
@example("a" * ID_LENGTH_MAX)
@example("a" * (ID_LENGTH_MAX + 1))
def test_a_text_fits_where_it_is_taken(name: str, text: str) -> None:
    shape, check = TEXT_SHAPES[name]
    assert fits(shape, text) is is_taken(check, text)


MOST = AMOUNT_MICROS_MAX // MICROS_PER_TOKEN


@pytest.mark.parametrize("allow_zero", [False, True])
@pytest.mark.parametrize("allow_negative", [False, True])
@given(amount=st.decimals(-2 * MOST, 2 * MOST, places=7) | st.integers(-2 * MOST, 2 * MOST).map(Decimal))
@example(Decimal(0))
@example(Decimal(MOST))
@example(Decimal(-MOST))
@example(Decimal(MOST) + Decimal("0.000001"))
@example(Decimal("0.000001"))
@example(Decimal("0.0000001"))
def test_an_amount_fits_where_it_is_taken(allow_negative: bool, allow_zero: bool, amount: Decimal) -> None:
    shape = shapes.amount(allow_negative=allow_negative, allow_zero=allow_zero)
    fits = (
        shape.get("minimum", amount) <= amount <= shape["maximum"]
        and amount > shape.get("exclusiveMinimum", amount - 1)
        and amount % shape["multipleOf"] == 0
        and not ("not" in shape and amount == shape["not"]["const"])
    )
    taken = is_taken(
        lambda number: inputs.amount_micros(number, allow_negative=allow_negative, allow_zero=allow_zero), amount
    )
    assert fits is taken
