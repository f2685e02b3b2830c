from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.providers.billing import Billing
from tests.providers.mock import mock_provider
from tests.providers.slow import SlowProvider, slow_provider


@pytest.fixture(scope="session")
def provider() -> Iterator[str]:
    with mock_provider() as url:
        yield url


@pytest.fixture
def billing() -> Billing:
    return Billing()


@pytest.fixture
def slow() -> Iterator[SlowProvider]:
    with slow_provider() as provider:
        yield provider
