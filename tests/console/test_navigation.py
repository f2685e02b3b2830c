"""Each page says what lies above it, and forms lead back to where they were opened."""

from __future__ import annotations

from app.bootstrap import Container
from app.console import access, navigation
from app.console.factory import create_console
from tests.conftest import PROJECT
from tests.console.browser import Browser
from tests.console.pages import pages_of
from tests.support import Billing
from tests.unit.test_guards import CONFIG

PICTURES = PROJECT / "docs/images/console"


def test_every_page_that_is_no_form_is_in_the_map() -> None:
    console = create_console(Container(CONFIG), lambda app: None)
    first = {section.endpoint for section in navigation.SECTIONS}
    forms = {rule.endpoint for rule in console.url_map.iter_rules() if {"GET", "POST"} <= (rule.methods or set())}
    with console.app_context():
        assert pages_of(console) - forms - first - set(navigation.PAGES) == {"sign_in.show"}
        assert {found.parent for found in navigation.PAGES.values()} <= first | set(navigation.PAGES)
        # Whoever may open a page may open what lies above it.
        for endpoint, found in navigation.PAGES.items():
            assert access.scope_of(endpoint) == access.scope_of(found.parent), endpoint


def test_every_page_has_its_pictures() -> None:
    """`make screenshots` takes them: somebody has looked at each page in light, in dark and on a phone."""
    pages = pages_of(create_console(Container(CONFIG), lambda app: None))
    wanted = {f"{page.replace('.', '-')}-{kind}.webp" for page in pages for kind in ("light", "dark", "phone")}
    assert {file.name for file in PICTURES.iterdir()} == wanted


def test_what_lies_above(operator: Browser, billing: Billing) -> None:
    billing.catalog()
    billing.wallet("a/b", tokens=5)
    wallets, wallet = "/console/wallets", "/console/wallets/show/a/b"
    for path, above in (
        ("/", []),
        ("/wallets", []),
        ("/wallets/show/a%2Fb", [wallets]),
        ("/wallets/statement/a%2Fb", [wallets, wallet]),
        ("/wallets/top-up/a%2Fb", [wallets, wallet]),
        ("/failed-ends/write-off", ["/console/failed-ends"]),
        ("/bulk-actions", ["/console/failed-ends"]),
        ("/webhooks/balance-rules/low-balance", ["/console/webhooks", "/console/webhooks/balance-rules"]),
    ):
        page = operator.page(path)
        assert [url.replace("%2F", "/") for url in page.crumbs] == above, path
