"""What keeps others out: headers, tokens of forms, where requests come from, scopes."""

from __future__ import annotations

import hashlib
import re

import pytest
from flask import Flask, g

from app.bootstrap import Container
from app.config import Config
from app.console import access, assets
from app.console.factory import create_console
from app.web import create_app
from tests.conftest import PROJECT
from tests.console.browser import Browser, Page, cookies_of
from tests.unit.test_guards import CONFIG


def test_every_page_is_protected_and_not_kept(operator: Browser) -> None:
    for path in ("/", "/sign-in", "/nowhere"):
        headers = operator.get(path).headers
        policy = headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'none'; ")
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Referrer-Policy"] == "no-referrer"
        assert headers["Cache-Control"] == "no-store"


def test_assets_are_kept_for_ever_under_their_hash(browser: Browser) -> None:
    page = browser.page("/sign-in")
    urls = [value for tag, name, value in page.attributes if tag in ("link", "script") and name in ("href", "src")]
    assert len(urls) == 3
    for url in urls:
        assert url is not None
        response = browser.get(url)
        assert response.status_code == 200
        assert response.headers["Cache-Control"] == "public, max-age=31536000, immutable"
        assert hashlib.sha256(response.data).hexdigest()[:16] in url
        other = browser.get(re.sub(r"assets/[0-9a-f]+", "assets/0000", url))
        assert (other.data, other.headers["Cache-Control"]) == (response.data, "no-cache")
    assert browser.get("/assets/0000/nothing.js").status_code == 404


@pytest.mark.parametrize("name", sorted(assets.THIRD_PARTY))
def test_a_library_is_what_was_published(name: str) -> None:
    told = assets.THIRD_PARTY[name]
    content = assets.assets()[name].content
    assert hashlib.sha256(content).hexdigest() == told["sha256"]
    assert told["version"] in name
    assert f'version:"{told["version"]}"'.encode() in content
    licence = assets.files("app.console").joinpath("assets", told["licence_file"]).read_text()
    assert licence.startswith("Zero-Clause BSD")


def test_every_script_that_is_shipped_is_named() -> None:
    assert {name for name in assets.assets() if name.endswith(".js")} == set(assets.THIRD_PARTY)


@pytest.mark.parametrize("csrf", ["", "x", "0" * 64, None])
def test_a_form_without_the_sessions_token_does_nothing(operator: Browser, csrf: str | None) -> None:
    form = operator.page("/").form("/console/sign-out")
    page = Page.of(operator.send(form, csrf=csrf), 403)
    assert "nothing was done" in page.text
    assert operator.get("/").status_code == 200


def test_a_token_of_another_session_does_nothing(operator: Browser, app: Flask) -> None:
    other = Browser(app)
    other.sign_in()
    theirs = other.page("/").form("/console/sign-out").value("csrf")
    form = operator.page("/").form("/console/sign-out")
    assert operator.send(form, csrf=theirs).status_code == 403


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Sec-Fetch-Site": "same-origin"}, 303),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Origin": "http://localhost"}, 303),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        # Neither is sent by old browsers: the token decides.
        ({}, 303),
    ],
)
def test_a_form_from_elsewhere_does_nothing(operator: Browser, headers: dict[str, str], status: int) -> None:
    form = operator.page("/").form("/console/sign-out")
    assert operator.client.post(form.action, data=dict(form.values), headers=headers).status_code == status


def test_a_sign_in_from_elsewhere_does_nothing(browser: Browser) -> None:
    """Nobody is signed in unawares to somebody else's session."""
    form = browser.page("/sign-in").form("/console/sign-in")
    fields = {**dict(form.values), "key": "dev-admin-key"}
    assert browser.client.post(form.action, data={**fields, "csrf": "x"}).status_code == 403
    browser.client.delete_cookie("tokentill-visit", path="/")
    assert browser.client.post(form.action, data=fields).status_code == 403
    assert browser.client.post(form.action, data={**fields, "csrf": access.token_of("")}).status_code == 403


def test_outside_local_mode_cookies_are_for_https_and_this_host_only(container: Container) -> None:
    production = Config.from_environment(
        {
            "DATABASE_URL": container.config.database_url,
            "REDIS_URL": container.config.redis_url,
            "SERVER_API_KEY": "s" * 24,
            "ADMIN_API_KEY": "a" * 24,
        }
    )
    services = Container(production)
    try:
        client = create_app(container=services).test_client()
        signing_in = client.get("/console/sign-in", base_url="https://localhost")
        form = Page.of(signing_in).form("/console/sign-in")
        [visit] = cookies_of(signing_in).values()
        fields = {**dict(form.values), "key": "a" * 24}
        cookie = cookies_of(client.post(form.action, data=fields, base_url="https://localhost"))
        for name, header in (("visit", visit), ("console", cookie["__Host-tokentill-console"])):
            assert header.startswith(f"__Host-tokentill-{name}=")
            assert {"Secure", "HttpOnly", "Path=/", "SameSite=Strict"} <= set(header.split("; "))
            assert "Domain" not in header
    finally:
        services.close()


def test_every_view_says_who_may_open_it() -> None:
    """One that says nothing would never be served: this tells it before anybody meets it."""
    console = create_console(Container(CONFIG), lambda app: None)
    open_to_all = set()
    with console.app_context():
        for endpoint in console.view_functions:
            scope = access.scope_of(endpoint)
            assert scope in {*access.KINDS, *map(str, access.KeyScope)}, endpoint
            if scope == "open":
                open_to_all.add(endpoint)
    assert open_to_all == {"assets.serve", "sign_in.show", "sign_in.sign_in", "sign_in.choose_theme"}


def test_strangers_get_nothing_from_any_page() -> None:
    console = create_console(Container(CONFIG), _begin)
    client = console.test_client()
    for rule in console.url_map.iter_rules():
        if access_of(console, rule.endpoint) == "open":
            continue
        path = re.sub(r"<[^>]*>", "1", rule.rule)
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}:
            response = client.open(path, method=method)
            assert response.status_code == (303 if method == "GET" else 401), f"{method} {path}"


def access_of(console: Flask, endpoint: str) -> str:
    with console.app_context():
        return access.scope_of(endpoint)


def _begin(app: Flask) -> None:
    @app.before_request
    def _set() -> None:
        g.address, g.request_id = "127.0.0.1", "test"


def test_no_template_has_script_or_style_inline() -> None:
    templates = sorted((PROJECT / "app/console/templates").rglob("*.html"))
    assert len(templates) > 10
    for file in templates:
        text = file.read_text()
        assert not re.search(
            r"\son\w+\s*=|\sstyle\s*=|<style|<script(?![^>]*src=)|javascript:|\|\s*safe|hx-on", text
        ), file.name
