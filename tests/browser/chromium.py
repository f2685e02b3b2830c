"""Debian's headless Chromium with a font, unpacked for the tests, and Playwright that drives it."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from tests.debian import libraries_of, unpack

# The shell is the part of it that has no windows: half the size, and without what windows need. Its data have to lie
# beside it, also where the machine has them elsewhere.
PACKAGES = ("chromium-common", "chromium-headless-shell", "fonts-dejavu-core")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--force-color-profile=srgb",
    "--font-render-hinting=none",
)
WAIT_SECONDS = 15.0
# What axe calls so would keep somebody from using a page; "minor" and "moderate" are advice.
SERIOUS = {"serious", "critical"}
PHONE = (360, 740)
DESKTOP = (1280, 860)

Theme = Literal["light", "dark"]


@contextmanager
def chromium(config: pytest.Config) -> Iterator[Browser]:
    """Skips where apt can't bring it. Playwright gives it an empty profile of its own."""
    unpacked = unpack(config, PACKAGES)
    assert config.cache is not None
    cache = config.cache.mkdir("browser")
    fonts = cache / "fonts.conf"
    # The same fonts on every machine: pictures and widths don't depend on what is installed.
    fonts.write_text(
        '<?xml version="1.0"?><!DOCTYPE fontconfig SYSTEM "fonts.dtd"><fontconfig>'
        f"<dir>{unpacked}/usr/share/fonts</dir><cachedir>{cache}/fonts</cachedir></fontconfig>"
    )
    environment: dict[str, str | float | bool] = {
        "LD_LIBRARY_PATH": ":".join(map(str, libraries_of(unpacked))),
        "FONTCONFIG_FILE": str(fonts),
        "HOME": str(cache),
    }
    program = unpacked / "usr/lib/chromium/chromium-headless-shell"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=FLAGS, env=environment)
        yield browser
        browser.close()


@contextmanager
def opened(
    browser: Browser, url: str, *, theme: Theme = "light", size: tuple[int, int] = DESKTOP, **settings: object
) -> Iterator[Page]:
    """A page of a browser that nobody has used before."""
    width, height = size
    context: BrowserContext = browser.new_context(
        base_url=url,
        color_scheme=theme,
        viewport={"width": width, "height": height},
        is_mobile=size == PHONE,
        has_touch=size == PHONE,
        reduced_motion="reduce",
        locale="en-GB",
        timezone_id="UTC",
        **settings,  # type: ignore[arg-type]
    )
    context.set_default_timeout(WAIT_SECONDS * 1_000)
    page = context.new_page()
    troubles: list[str] = []
    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.on("console", lambda message: troubles.append(message.text) if message.type == "error" else None)
    try:
        yield page
        assert troubles == [], "the browser complained"
    finally:
        context.close()


def assert_accessible(page: Page, *, only_colours: bool = False) -> None:
    """axe finds nothing serious. In another theme only colours differ."""
    options: dict[str, object] = {"resultTypes": ["violations"]}
    if only_colours:
        options["runOnly"] = ["color-contrast"]
    found = Axe().run(page, options=options).response["violations"]
    told = [
        "\n    ".join([f"{one['id']} ({one['impact']}): {one['help']}", *(node["html"][:200] for node in one["nodes"])])
        for one in found
        if one["impact"] in SERIOUS
    ]
    assert told == [], f"{page.url}\n" + "\n".join(told)


def assert_fits(page: Page) -> None:
    """Nobody has to scroll sideways."""
    width, wanted = page.evaluate("[document.documentElement.clientWidth, document.documentElement.scrollWidth]")
    assert wanted <= width, f"{page.url} is {wanted} pixels wide on a screen of {width}"


def take_picture(page: Page, path: Path) -> None:
    """Of what the screen shows, as WebP, which takes a fifth of a PNG."""
    session = page.context.new_cdp_session(page)
    taken = session.send("Page.captureScreenshot", {"format": "webp", "quality": 75})
    path.write_bytes(base64.b64decode(taken["data"]))
    session.detach()
