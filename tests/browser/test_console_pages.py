"""Every page of the console: reached by links from the first one, readable by all, in light, dark and on a phone."""

from __future__ import annotations

from collections import deque
from pathlib import Path
from urllib.parse import quote, urlsplit

import pytest
from playwright.sync_api import Browser, Error, Page
from werkzeug.exceptions import HTTPException

from app.console.factory import PREFIX, create_console
from tests.browser.chromium import DESKTOP, PHONE, assert_accessible, assert_fits, opened, take_picture
from tests.browser.till import Till
from tests.console.pages import pages_of

pytestmark = pytest.mark.xdist_group("browser")

HOSTILE = "<img src=x onerror=alert(1)>" + "\u05e9" * 20 + "\U0001f600" * 10 + "x" * 70


class Pages:
    """Which page stands at an address."""

    def __init__(self, till: Till) -> None:
        self._app = create_console(till.container, lambda _: None)
        self._routes = self._app.url_map.bind("console")

    def endpoint(self, url: str) -> str | None:
        try:
            return self._routes.match(urlsplit(url).path, method="GET")[0]
        except HTTPException:
            return None

    def all(self) -> set[str]:
        return pages_of(self._app)


def links(page: Page) -> list[str]:
    found: list[str] = page.eval_on_selector_all("a[href]:not([download])", "links => links.map(link => link.href)")
    return [url for url in found if urlsplit(url).path.startswith(PREFIX)]


@pytest.mark.timeout(600)
def test_every_page_is_accessible_and_fits_a_phone(browser: Browser, till: Till, pytestconfig: pytest.Config) -> None:
    pictures: Path | None = pytestconfig.getoption("--screenshots", default=None)
    pages = Pages(till)
    seen = {"sign_in.show"}
    troubles: list[str] = []
    with opened(browser, till.url) as page:
        page.goto(f"{PREFIX}/sign-in")
        look(page, "sign_in.show", pictures, troubles)
        till.sign_in(page)
        # Alice has something of everything.
        waiting = deque([f"{till.url}{PREFIX}/wallets/show/alice", f"{till.url}{PREFIX}/"])
        while waiting:
            url = waiting.popleft()
            endpoint = pages.endpoint(url)
            if endpoint is None or endpoint in seen:
                continue
            try:
                answer = page.goto(url)
            except Error as error:
                assert "Download is starting" in error.message  # noqa: PT017
                seen.add(endpoint)
                continue
            if answer is None or "text/html" not in answer.headers.get("content-type", ""):
                continue
            seen.add(endpoint)
            assert answer.status == 200, f"{url} answers {answer.status}"
            look(page, endpoint, pictures, troubles)
            waiting += links(page)
    assert troubles == [], "\n\n".join(troubles)
    missing = pages.all() - seen
    assert not missing, f"no link that was followed leads to {', '.join(sorted(missing))}"


def look(page: Page, endpoint: str, pictures: Path | None, troubles: list[str]) -> None:
    """In light, dark and on a phone, one after the other and without loading it again."""
    for name, theme, (width, height) in (
        ("light", "light", DESKTOP), ("dark", "dark", DESKTOP), ("phone", "light", PHONE),
    ):  # fmt: skip
        page.emulate_media(color_scheme=theme)  # type: ignore[arg-type]
        page.set_viewport_size({"width": width, "height": height})
        try:
            if name == "phone":
                assert_fits(page)
            else:
                assert_accessible(page, only_colours=name == "dark")
        except AssertionError as error:
            troubles.append(f"{endpoint}, {name}: {error}")
        if pictures is not None:
            pictures.mkdir(parents=True, exist_ok=True)
            take_picture(page, pictures / f"{endpoint.replace('.', '-')}-{name}.webp")


def test_the_description_of_the_api_fits_a_phone(browser: Browser, till: Till) -> None:
    with opened(browser, till.url, size=PHONE) as page:
        page.goto("/docs")
        assert_fits(page)
        # Types have the whole width, and not a narrow column that is as high as a page.
        width: int = page.evaluate("Math.min(...[...document.querySelectorAll('.type')].map(cell => cell.offsetWidth))")
        assert width > PHONE[0] / 2


def test_a_hostile_name_stays_text_and_pushes_nothing_out_of_sight(browser: Browser, till: Till) -> None:
    """Markup, letters that run the other way, pictures, and all as long as an id may be."""
    till.owes(HOSTILE, 2)
    dialogs: list[str] = []
    named = quote(HOSTILE, safe="")
    with opened(browser, till.url, size=PHONE) as page:
        page.on("dialog", lambda dialog: dialogs.append(dialog.message))
        till.sign_in(page)
        for path in ("/", "/wallets", f"/wallets/show/{named}", f"/wallets/top-up/{named}", "/failed-ends"):
            page.goto(PREFIX + path)
            assert_fits(page)
        width, height = DESKTOP
        page.set_viewport_size({"width": width, "height": height})
        # What it is about never hides how much it is.
        row = page.get_by_role("table", name="By user").get_by_role("row", name="onerror")
        amount, table = row.get_by_role("cell").nth(1).bounding_box(), page.get_by_label("By user").first.bounding_box()
        assert amount is not None
        assert table is not None
        assert amount["x"] + amount["width"] <= table["x"] + table["width"]
    assert dialogs == []
