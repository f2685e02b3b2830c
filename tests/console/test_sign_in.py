"""Signing in to the console: who gets in, for how long, and what the browser is told about it."""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType

import pytest

from app.bootstrap import Container
from app.domain.keys import KeyScope
from tests.console.browser import Browser, Page, cookies_of
from tests.support import Billing


def test_whoever_is_not_signed_in_is_sent_to_do_so_and_back(browser: Browser) -> None:
    response = browser.get("/?x=1")
    assert response.status_code == 303
    assert response.headers["Location"] == "/console/sign-in?next=/console/?x%3D1"
    form = browser.page(response.headers["Location"]).form("/console/sign-in")
    assert form.value("next") == "/console/?x=1"
    assert browser.send(form, key="dev-admin-key").headers["Location"] == "/console/?x=1"


def test_a_page_that_does_not_exist_is_not_told_to_strangers(browser: Browser) -> None:
    assert browser.get("/nowhere").status_code == 303
    browser.sign_in()
    assert browser.page("/nowhere", 404).headings == ["Not Found"]


def test_signed_in_the_name_stands_on_each_page(operator: Browser) -> None:
    assert "admin/Ada" in operator.page("/").text


@pytest.mark.parametrize("key", ["wrong", "dev-server-key", "\u00e9", "dev-admin-key "[:-2]])
def test_a_wrong_key_does_not_get_in(browser: Browser, key: str) -> None:
    response = browser.sign_in(key, person="Ada")
    page = Page.of(response, 401)
    assert "That is no operator's key in force" in page.text
    assert page.form("/console/sign-in").value("person") == "Ada"
    assert key not in page.html
    assert "tokentill-console" not in cookies_of(response)
    assert browser.get("/").status_code == 303


def test_the_key_stands_in_no_address_and_no_log(browser: Browser, capfd: pytest.CaptureFixture[str]) -> None:
    response = browser.sign_in()
    assert "dev-admin-key" not in str(response.headers)
    browser.get("/")
    assert "dev-admin-key" not in "".join(capfd.readouterr())


def test_the_cookie_is_for_this_site_and_no_script(browser: Browser) -> None:
    cookie = cookies_of(browser.sign_in())["tokentill-console"]
    assert {"HttpOnly", "SameSite=Strict", "Path=/"} <= set(cookie.split("; "))
    assert "Domain" not in cookie


@pytest.mark.parametrize(
    "target",
    [
        "https://evil.example/",
        "//evil.example",
        "/console/\\evil",
        "/consoleevil",
        "/api/admin/wallets",
        "",
        "/console/\n",
    ],
)
def test_nobody_is_sent_elsewhere(browser: Browser, target: str) -> None:
    form = browser.page("/sign-in").form("/console/sign-in")
    assert browser.send(form, key="dev-admin-key", next=target).headers["Location"] == "/console/"


def test_a_sign_out_ends_the_session_for_whoever_has_its_cookie(operator: Browser, app: object) -> None:
    cookie = operator.client.get_cookie("tokentill-console")
    assert cookie is not None
    token = cookie.value
    form = operator.page("/").form("/console/sign-out")
    assert operator.send(form).headers["Location"] == "/console/sign-in"
    operator.client.set_cookie("tokentill-console", token, path="/")
    assert operator.get("/").status_code == 303


@pytest.mark.parametrize(
    ("change", "is_open"),
    [
        ("seen_at = now() - interval '29 minutes'", True),
        ("seen_at = now() - interval '31 minutes'", False),
        ("expires_at = now() - interval '1 second'", False),
    ],
)
def test_a_session_ends_by_itself(operator: Browser, billing: Billing, change: str, is_open: bool) -> None:
    billing.execute_in_postgres(f"UPDATE console_sessions SET {change}")
    assert operator.get("/").status_code == (200 if is_open else 303)
    # Who looks keeps it open.
    if is_open:
        with billing.container.engine.connect() as connection:
            seen = connection.exec_driver_sql("SELECT seen_at > now() - interval '1 minute' FROM console_sessions")
            assert seen.scalar_one()


def test_a_page_that_updates_itself_keeps_no_session_open(operator: Browser, billing: Billing) -> None:
    billing.execute_in_postgres("UPDATE console_sessions SET seen_at = now() - interval '29 minutes'")
    assert operator.get("/", HX_Request="true").status_code == 200
    with billing.container.engine.connect() as connection:
        seen = connection.exec_driver_sql("SELECT seen_at < now() - interval '28 minutes' FROM console_sessions")
        assert seen.scalar_one()
    billing.execute_in_postgres("UPDATE console_sessions SET seen_at = now() - interval '31 minutes'")
    response = operator.get("/", HX_Request="true")
    assert (response.status_code, response.headers["HX-Redirect"]) == (204, "/console/sign-in?next=/console/")


def test_only_hashes_are_kept(operator: Browser, billing: Billing) -> None:
    cookie = operator.client.get_cookie("tokentill-console")
    assert cookie is not None
    with billing.container.engine.connect() as connection:
        [row] = connection.exec_driver_sql("SELECT * FROM console_sessions")
    assert cookie.value not in str(row)
    assert "dev-admin-key" not in str(row)


def test_a_session_that_has_ended_is_taken_away_with_the_next_sign_in(operator: Browser, billing: Billing) -> None:
    billing.execute_in_postgres("UPDATE console_sessions SET expires_at = now()")
    operator.sign_in()
    with billing.container.engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM console_sessions").scalar_one() == 1


def test_a_link_from_elsewhere_is_asked_for_once_more(operator: Browser) -> None:
    """The cookie is for our own pages: a browser doesn't send it along from another site's link."""
    token = operator.client.get_cookie("tokentill-console")
    assert token is not None
    operator.client.delete_cookie("tokentill-console", path="/")
    page = operator.page("/", Sec_Fetch_Site="cross-site")
    assert ("meta", "http-equiv", "refresh") in page.attributes
    operator.client.set_cookie("tokentill-console", token.value, path="/")
    assert operator.page("/", Sec_Fetch_Site="same-origin").headings[0] == "Overview"


def test_the_theme_is_chosen_without_a_session(browser: Browser) -> None:
    form = browser.page("/sign-in").form("/console/theme")
    response = browser.send(form, theme="dark")
    assert response.headers["Location"] == "/console/sign-in"
    assert ("html", "data-theme", "dark") in browser.page("/sign-in").attributes
    browser.send(form, theme="")
    assert not [name for _, name, _ in browser.page("/sign-in").attributes if name == "data-theme"]


def test_a_revoked_key_ends_its_sessions_at_once(operator_with: Callable[..., Browser], container: Container) -> None:
    reader = operator_with(KeyScope.READ)
    assert "some" in reader.page("/").text
    # In another process: this one's copy of the keys doesn't know yet.
    with container.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE api_keys SET revoked_at = now() WHERE id = %(id)s", {"id": reader.key_id})
    assert reader.get("/").status_code == 303


def test_a_key_that_expires_ends_its_sessions(operator_with: Callable[..., Browser], container: Container) -> None:
    reader = operator_with(KeyScope.READ)
    with container.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE api_keys SET expires_at = now() WHERE id = %(id)s", {"id": reader.key_id})
    assert reader.get("/").status_code == 303


class TestWhatWasTypedIsNotLost:
    """A form that is sent after its session has ended does nothing, and comes back as it was."""

    NEW = "/console/catalogue/packages/new"
    TYPED = MappingProxyType({"id": "basic", "name": "<b>Basic</b>", "reason": "launch"})

    @pytest.mark.parametrize("step", ["review", "do"])
    def test_by_the_sign_in(self, operator: Browser, billing: Billing, step: str) -> None:
        form = operator.page(self.NEW).form(self.NEW)
        billing.execute_in_postgres("DELETE FROM console_sessions")
        refused = Page.of(operator.send(form, step=step, **self.TYPED), 401)
        assert "nothing was done" in refused.text
        # A slip on the way loses nothing either.
        sign_in = refused.form("/console/sign-in")
        sign_in = Page.of(operator.send(sign_in, key="wrong"), 401).form("/console/sign-in")
        back = Page.of(operator.send(sign_in, key="dev-admin-key")).form(self.NEW)
        again = Page.of(operator.send(back, step="edit")).form(self.NEW)
        assert {name: again.value(name) for name in self.TYPED} == self.TYPED
        review = Page.of(operator.send(again, step="review")).form(self.NEW)
        assert operator.send(review, step="do").status_code == 303
        billing.container.catalog.refresh()
        assert list(billing.container.catalog.current.packages) == ["basic"]

    def test_when_somebody_has_signed_in_anew_elsewhere(self, operator: Browser, billing: Billing) -> None:
        form = operator.page(self.NEW).form(self.NEW)
        operator.sign_in()
        back = Page.of(operator.send(form, step="do", **self.TYPED), 403)
        assert "signed in anew" in back.text
        again = Page.of(operator.send(back.form(self.NEW), step="edit")).form(self.NEW)
        assert {name: again.value(name) for name in self.TYPED} == self.TYPED
        assert list(billing.container.catalog.current.packages) == []

    def test_not_for_another_site(self, operator: Browser, billing: Billing) -> None:
        form = operator.page(self.NEW).form(self.NEW)
        for headers in ({"Sec-Fetch-Site": "cross-site"}, {"Origin": "https://evil.example"}):
            sent = operator.client.post(
                form.action, data={**dict(form.values), "csrf": "x", "id": "evil"}, headers=headers
            )
            assert "evil" not in Page.of(sent, 403).html
        billing.execute_in_postgres("DELETE FROM console_sessions")
        sent = operator.client.post(form.action, data={"id": "evil"}, headers={"Sec-Fetch-Site": "cross-site"})
        assert "evil" not in Page.of(sent, 403).html

    def test_a_confirmation_leads_back_to_what_it_was_about(self, operator: Browser, billing: Billing) -> None:
        """It is no form that is filled in: it is never sent again by itself."""
        token = operator.page("/").form("/console/sign-out").value("csrf")
        billing.execute_in_postgres("DELETE FROM console_sessions")
        headers = {"Sec-Fetch-Site": "same-origin"}
        sent = operator.client.post(
            "/console/bulk-actions/1/confirm", data={"csrf": token, "ends": "1"}, headers=headers
        )
        form = Page.of(sent, 401).form("/console/sign-in")
        assert "kept" not in form.names
        assert operator.send(form, key="dev-admin-key").headers["Location"] == "/console/bulk-actions/1"

    def test_what_is_carried_along_is_nothing_but_texts(self, browser: Browser) -> None:
        form = browser.page("/sign-in?next=/console/wallets").form("/console/sign-in")
        for kept in ("x", "1", "[1]", "[[1]]", '[["csrf", "x"]]', "{}"):
            assert browser.send(form, key="dev-admin-key", kept=kept).headers["Location"] == "/console/wallets"


def test_a_session_that_has_ended_is_told(operator: Browser, billing: Billing) -> None:
    assert "has ended" not in operator.page("/sign-in").text
    billing.execute_in_postgres("DELETE FROM console_sessions")
    assert "has ended" in operator.follow(operator.get("/")).text
