"""A browser, and the processes that it looks at. `--screenshots=FOLDER` keeps pictures of the console's pages."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

from app.config import Config
from stack.embedded import ValkeyServer
from tests.browser.chromium import chromium, opened
from tests.browser.till import Till, till


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--screenshots", type=Path, help="a folder for pictures of the console's pages")


@pytest.fixture(scope="session")
def browser(request: pytest.FixtureRequest) -> Iterator[Browser]:
    with chromium(request.config) as started:
        yield started


@pytest.fixture(scope="module", name="till")
def _till(
    browser: Browser,  # Where there is none, nothing is started for it.
    config: Config,
    environment: dict[str, str],
    redis_server: ValkeyServer,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Till]:
    with till(config, environment, redis_server.url, tmp_path_factory.mktemp("till")) as opened_till:
        yield opened_till


@pytest.fixture
def page(browser: Browser, till: Till) -> Iterator[Page]:
    """Signed in to the console."""
    with opened(browser, till.url) as page:
        till.sign_in(page)
        yield page
