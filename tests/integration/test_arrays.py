"""What is sent to Postgres as the text of an array arrives as the values it was made of."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import uuid4

import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.bootstrap import Container
from app.stores.postgres.arrays import id_array, moment_array, number_array, text_array

TEXTS = [
    "",
    " ",
    "NULL",
    "null",
    "a,b",
    "{}",
    "{a}",
    '"',
    "\\",
    "\\\\",
    'a"b\\c',
    "\n\t",
    "\u200d",
    "\U0001f600",
    "%s",
    ":ids",
    None,
]


def received(container: Container, array: str, type_name: str) -> list[object]:
    with container.engine.connect() as connection:
        return list(connection.execute(sa.text(f"SELECT CAST(:array AS {type_name}[])"), {"array": array}).scalar_one())


@given(
    st.lists(
        st.one_of(st.none(), st.sampled_from(TEXTS), st.text(st.characters(codec="utf-8", exclude_characters="\0")))
    )
)
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_texts(container: Container, texts: list[str | None]) -> None:
    assert received(container, text_array([*TEXTS, *texts]), "text") == [*TEXTS, *texts]


def test_ids_numbers_and_moments(container: Container) -> None:
    ids = [uuid4() for _ in range(3)]
    assert received(container, id_array(ids), "uuid") == ids
    numbers = [0, -(2**63), 2**63 - 1, None]
    assert received(container, number_array(numbers), "bigint") == numbers
    moments = [datetime(2026, 2, 3, 4, 5, 6, 789, UTC), None, datetime(1999, 12, 31, tzinfo=UTC)]
    assert received(container, moment_array(moments), "timestamptz") == moments
    for make in (id_array, number_array, text_array, moment_array):
        assert received(container, make([]), "text") == []  # type: ignore[operator]
