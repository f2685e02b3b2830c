"""The pytest fixture `tokentill_memory`, which pytest finds by itself where this package is installed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tokentill.testing import MemoryTokentill


@pytest.fixture
def tokentill_memory() -> Iterator[MemoryTokentill]:
    """An empty `MemoryTokentill`, which functions and wrappers without a `client` use in this test."""
    from tokentill import configure  # noqa: PLC0415 - a test run that doesn't want it needn't wait for it
    from tokentill.testing import MemoryTokentill  # noqa: PLC0415

    memory = MemoryTokentill()
    with memory.client() as client:
        configure(client=client, async_client=memory.async_client())
        yield memory
        configure()
