from __future__ import annotations

from uuid import UUID

import pytest

from app.domain.pages import NEWEST, Page
from app.wire.cursors import BY_EXPIRY, BY_ID, NEWEST_FIRST, OLDEST_FIRST, Order, from_cursor, page_answer, page_size

UUID_7 = "01a20591-939c-7411-9602-9fa0c3c61c49"


@pytest.mark.parametrize(
    ("order", "key"),
    [
        (BY_ID, "alice"),
        (BY_ID, "Ägypten/ü ?"),
        (OLDEST_FIRST, UUID_7),
        (NEWEST_FIRST, NEWEST),
        (NEWEST_FIRST, 1),
        (BY_EXPIRY, "1764111600000:run:1"),
    ],
)
def test_a_page_goes_on_where_the_last_one_ended(order: Order, key: str | int) -> None:
    answer = page_answer(Page([7], key), lambda item: {"id": item})
    assert answer["items"] == [{"id": 7}]
    assert from_cursor(order, answer["next_cursor"]) == key


def test_the_last_page_has_no_cursor() -> None:
    assert page_answer(Page([], None), dict) == {"items": [], "next_cursor": None}


@pytest.mark.parametrize("order", [BY_ID, OLDEST_FIRST, NEWEST_FIRST, BY_EXPIRY])
@pytest.mark.parametrize("cursor", ["", "?", "YQ==", "Y Q", "YWxpY2U\n", "/w"])
def test_what_no_page_gave_is_no_cursor(order: Order, cursor: str) -> None:
    with pytest.raises(ValueError, match="next_cursor of this list"):
        from_cursor(order, cursor)


@pytest.mark.parametrize(
    ("order", "key"),
    [
        (OLDEST_FIRST, UUID_7.upper()),
        (OLDEST_FIRST, "alice"),
        (NEWEST_FIRST, str(NEWEST + 1)),
        (NEWEST_FIRST, "-1"),
        (BY_EXPIRY, "soon:run"),
        (BY_EXPIRY, "1764111600000"),
    ],
)
def test_a_key_of_another_list_is_no_cursor(order: Order, key: str) -> None:
    cursor = page_answer(Page([], key), dict)["next_cursor"]
    with pytest.raises(ValueError, match="next_cursor of this list"):
        from_cursor(order, cursor)


def test_every_order_begins_before_all_keys() -> None:
    assert BY_ID.first < "!"
    assert UUID(OLDEST_FIRST.first) < UUID(UUID_7)
    assert NEWEST_FIRST.first == NEWEST


@pytest.mark.parametrize("text", ["0", "201", "-1", "1.0", "", "ten", "²"])
def test_a_page_has_1_to_200_items(text: str) -> None:
    assert page_size("200") == 200
    with pytest.raises(ValueError, match="from 1 to 200"):
        page_size(text)
