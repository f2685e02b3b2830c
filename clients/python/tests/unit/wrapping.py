"""Features wrapped for the user `u` of a fake server."""

from __future__ import annotations

from typing import Any

from tests.unit.fake import Fake
from tokentill import (
    with_token_process,
)

LOW = {"token": 50, "status": "not-access-able"}


def wrap(fake: Fake, function: Any, **options: Any) -> Any:
    """`function` wrapped for the user `u`, on a client of the right kind."""
    client = options.pop("client", None) or fake.client(total_timeout_seconds=0.01)
    return with_token_process(function, feature_endpoint_id="f", user_id="u", client=client, **options)


def wrap_async(fake: Fake, function: Any, **options: Any) -> Any:
    return wrap(fake, function, client=fake.async_client(total_timeout_seconds=0.01), **options)


def billed(fake: Fake) -> list[tuple[int, int]]:
    return [(call.body["input_token"], call.body["output_token"]) for call in fake.of("end")]


class BoomError(Exception):
    pass
