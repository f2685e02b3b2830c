"""A process id says whose it is, and only those that start made say anything."""

from __future__ import annotations

from uuid import uuid4

import pytest
from uuid_utils.compat import uuid7

from app.domain.errors import ProcessOfAnotherUser
from app.domain.inputs import ID_LENGTH_MAX, printable
from app.domain.processes import check_owner, new_process_id

USERS = ["u", "U", "u ", "ü", "a/b", "b", "x" * 128]


@pytest.mark.parametrize("user_id", USERS)
def test_an_id_belongs_to_its_user_alone(user_id: str) -> None:
    process_id = new_process_id(user_id)
    assert printable(process_id, ID_LENGTH_MAX) == process_id
    check_owner(process_id, user_id)
    for other in USERS:
        if other != user_id:
            with pytest.raises(ProcessOfAnotherUser):
                check_owner(process_id, other)


def test_ids_are_new_and_in_order() -> None:
    made = [new_process_id("u") for _ in range(1_000)]
    assert len(set(made)) == 1_000
    assert sorted(made) == made


def test_ids_that_a_client_made_are_anybodys() -> None:
    own = new_process_id("u")
    changed = own[:-12] + format(int(own[-12:], 16) ^ (1 << 40), "012x")
    invented = ["", "run-1", str(uuid4()), str(uuid7()), own[:36], own.upper(), own + "-1", changed]
    invented += [f"{uuid7()}-{uuid4().hex[:12]}" for _ in range(1_000)]
    for process_id in invented:
        check_owner(process_id, "somebody")
    check_owner(None, "somebody")


def test_the_form_does_not_change() -> None:
    """Ids in flight outlive an upgrade."""
    process_id = "01a20596-5336-7733-91c3-ec7baf964834-8db1423494eb"
    check_owner(process_id, "alice")
    with pytest.raises(ProcessOfAnotherUser):
        check_owner(process_id, "bob")
