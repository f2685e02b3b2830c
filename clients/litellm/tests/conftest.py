from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

# Its list of prices is in the package; it would be fetched from the network.
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"

import pytest
from tokentill.testing import MemoryTokentill


@pytest.fixture
def server() -> MemoryTokentill:
    return MemoryTokentill(features=["chat", "search"], wallets={"ann": 1_000, "bob": 1_000})


@pytest.fixture
def told() -> list[tuple[Exception, dict[str, Any]]]:
    return []


@pytest.fixture
def logger(server: MemoryTokentill, told: list[Any]) -> Iterator[Any]:
    import litellm

    from tokentill_litellm import TokentillLogger

    client = server.client()
    made = TokentillLogger(
        client=client,
        feature_endpoint_id="chat",
        hold_token=100,
        on_end_error=lambda *both: told.append(both),
    )
    litellm.callbacks = [made]
    yield made
    for name in (
        "callbacks",
        "input_callback",
        "success_callback",
        "failure_callback",
        "_async_success_callback",
        "_async_failure_callback",
        "_async_input_callback",
    ):
        setattr(litellm, name, [])
    made.close()
    client.close()
