from __future__ import annotations

from collections.abc import Callable

import pytest
from flask import Flask

from app.bootstrap import Container
from app.domain.keys import KeyKind, KeyScope, command_caller
from tests.console.browser import Browser


@pytest.fixture
def browser(app: Flask) -> Browser:
    """Not signed in."""
    return Browser(app)


@pytest.fixture
def operator(browser: Browser) -> Browser:
    """Signed in with a key that may do everything."""
    assert browser.sign_in(person="Ada").status_code == 303
    return browser


@pytest.fixture
def operator_with(app: Flask, container: Container) -> Callable[..., Browser]:
    """Signs somebody in with a key that has these scopes only."""

    def sign_in(*scopes: KeyScope, name: str = "some") -> Browser:
        made = container.key_admin.create(name, KeyKind.OPERATOR, scopes, caller=command_caller("test", "here"))
        browser = Browser(app)
        browser.key_id = made.row.id
        assert browser.sign_in(made.key).status_code == 303
        return browser

    return sign_in


@pytest.fixture
def reader(operator_with: Callable[..., Browser]) -> Browser:
    """Signed in with a key that may look at things."""
    return operator_with(KeyScope.READ)
