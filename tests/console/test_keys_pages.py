"""Keys and the audit log in the console."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable

import pytest
from flask import Flask

from app.bootstrap import Container
from app.domain.audit import AuditFilter
from app.domain.keys import Caller, KeyKind, KeyScope, command_caller
from app.stores.postgres import audit
from app.stores.postgres.api_keys import KeyRow
from tests.console.browser import Browser, Page
from tests.support import Billing

NEW = {"name": "chat", "kind": "service", "reason": "launch"}
HOSTILE = "<img src=x onerror=alert(1)>"


def made(browser: Browser, **fields: object) -> Page:
    """The page that has the key."""
    return Page.of(browser.change("/keys/new", **{**NEW, **fields}))


def key_in(page: Page) -> str:
    [key] = re.findall(r"tt_[a-z]+_[a-z2-9]{10}_[A-Za-z0-9]{43}", page.text)
    return str(key)


def only(container: Container, name: str) -> list[KeyRow]:
    return [key for key in container.key_admin.list(100).items if key.name == name]


class TestMaking:
    def test_the_key_is_shown_once(self, operator: Browser, container: Container) -> None:
        form = operator.review("/keys/new", **NEW).form("/console/keys/new")
        first = operator.send(form, step="do")
        page = Page.of(first)
        key = key_in(page)
        assert first.headers["Cache-Control"] == "no-store"
        assert container.keys.find(KeyKind.SERVICE, key, "192.0.2.1") is not None
        # Sent again, as by a reload: nothing more is made, and it isn't shown.
        again = operator.follow(operator.send(form, step="do"))
        assert "It was shown once" in again.text
        assert key not in again.html
        [row] = only(container, "chat")
        assert key not in operator.page(f"/keys/key/{row.id}").html
        assert key not in operator.page("/keys").html
        with container.engine.connect() as connection:
            for table in ("api_keys", "audit_log", "console_forms"):
                kept = connection.exec_driver_sql(f"SELECT t::text FROM {table} AS t").scalars().all()
                assert kept
                assert key[-43:] not in " ".join(kept)

    def test_who_made_it_and_why_is_kept(self, operator: Browser, container: Container) -> None:
        made(operator)
        [entry] = container.audit_log.list(AuditFilter(action="key.created"), 10).items
        assert (entry.actor, entry.key_id, entry.change.after["reason"]) == ("admin/Ada", "admin", "launch")

    @pytest.mark.parametrize(
        ("fields", "reason"),
        [
            ({"name": "admin"}, "Must not be admin"),
            ({"name": "a b"}, "Must have letters"),
            ({"kind": "operator"}, "Must be some of read"),
            ({"kind": "operator", "scopes": ["billing"]}, "Must be some of read"),
            ({"scopes": ["read"]}, "Must be some of billing"),
            ({"expires_at": "soon"}, "Must be a day"),
            ({"reason": ""}, "Must be filled in"),
        ],
    )
    def test_refused(self, operator: Browser, fields: dict[str, object], reason: str) -> None:
        assert reason in operator.review("/keys/new", 400, **{**NEW, **fields}).text

    def test_what_the_use_case_refuses(self, operator: Browser) -> None:
        made(operator)
        assert "A key in force is called chat" in Page.of(operator.change("/keys/new", **NEW), 409).text
        late = Page.of(operator.change("/keys/new", **{**NEW, "name": "b", "expires_at": "2020-01-01"}), 400)
        assert "Must be in the future." in late.text

    def test_nobody_gives_more_than_they_have(self, operator_with: Callable[..., Browser]) -> None:
        maker = operator_with(KeyScope.KEYS)
        fields = {"kind": "operator", "scopes": ["wallets"]}
        assert "lacks the scopes" in Page.of(maker.change("/keys/new", **{**NEW, **fields}), 403).text


class TestChanging:
    def test_rotating_shows_the_successor_once(self, operator: Browser, container: Container) -> None:
        old = key_in(made(operator))
        [row] = only(container, "chat")
        page = Page.of(operator.change(f"/keys/rotate/{row.id}", overlap_seconds="3600", reason="yearly"))
        new = key_in(page)
        assert new != old
        for key in (old, new):
            assert container.keys.find(KeyKind.SERVICE, key, "192.0.2.1") is not None
        shown = operator.page(f"/keys/key/{row.id}")
        assert "Followed by" in shown.text
        assert "key.rotated" in shown.text
        refused = operator.change(f"/keys/rotate/{row.id}", overlap_seconds="0", reason="again")
        assert "was rotated already" in Page.of(refused, 409).text

    def test_revoking_says_whether_it_is_used(self, operator: Browser, container: Container) -> None:
        key = key_in(made(operator))
        [row] = only(container, "chat")
        assert container.keys.find(KeyKind.SERVICE, key, "192.0.2.1") is not None
        container.keys.write_uses_now()
        review = operator.review(f"/keys/revoke/{row.id}", reason="leaked")
        assert "used in the last hour" in review.text
        assert "192.0.2.1" in review.text
        page = operator.follow(operator.send(review.form(f"/console/keys/revoke/{row.id}"), step="do"))
        assert "Key chat was revoked." in page.text
        assert container.keys.find(KeyKind.SERVICE, key, "192.0.2.1") is None
        assert not [link for link in page.links if "/revoke/" in link]

    def test_those_of_the_environment_are_told_where(self, operator: Browser) -> None:
        page = operator.page("/keys/key/admin")
        assert "ADMIN_API_KEY" in page.text
        assert not [link for link in page.links if "/rotate/" in link]
        assert "ADMIN_API_KEY" in Page.of(operator.change("/keys/revoke/admin", reason="x"), 409).text

    def test_a_key_that_is_revoked_ends_its_sessions(
        self, operator_with: Callable[..., Browser], container: Container
    ) -> None:
        browser = operator_with(KeyScope.KEYS)
        assert browser.get("/keys").status_code == 200
        container.key_admin.revoke(browser.key_id, caller=command_caller("test", "here"))
        assert browser.get("/keys").status_code == 303


def test_lists_and_filters(operator: Browser) -> None:
    made(operator)
    assert "chat" in operator.page("/keys?kind=service&state=active&name=chat").text
    assert "No key matches" in operator.page("/keys?state=revoked").text
    operator.page("/keys?state=odd", 400)
    operator.page("/keys?colour=red", 400)
    operator.page("/keys/key/unknown", 404)


@pytest.mark.parametrize("path", ["/keys", "/keys/new", "/keys/key/admin", "/audit-log", "/audit-log/table"])
def test_each_page_asks_for_its_scope(reader: Browser, path: str) -> None:
    assert "lacks the scope" in reader.page(path, 403).text


class TestAuditLog:
    @pytest.fixture
    def log(self, container: Container) -> None:
        anna = Caller("admin", key_id="admin", address="192.0.2.1", person="anna", request_id="r-1")
        with container.engine.begin() as connection:
            before, after = {"status": "active", "overdraft_limit_micros": 0}, {"status": "suspended"}
            audit.write(connection, anna, "wallet.suspended", ("wallet", HOSTILE), before=before, after=after)
            after = {"overdraft_limit_micros": 2_500_000, "reason": HOSTILE}
            audit.write(connection, Caller("bob"), "wallet.updated", ("wallet", "w/1"), after=after)

    def test_tells_who_what_and_how_it_was(self, operator: Browser, log: None) -> None:
        page = operator.page("/audit-log")
        assert "status: active → suspended" in page.text
        assert "overdraft limit tokens: 2.5" in page.text
        assert "overdraft limit tokens: was 0" in page.text
        assert "admin/anna" in page.text
        assert "<img" not in page.html
        assert page.text.rindex("wallet.updated") < page.text.rindex("wallet.suspended")

    def test_filters_in_its_address(self, operator: Browser, log: None) -> None:
        page = operator.page("/audit-log?actor=admin")
        assert "wallet.suspended" in page.text
        assert "wallet.updated" not in page.text
        assert "Nothing matches" in operator.page("/audit-log?from=2999-01-01").text
        operator.page("/audit-log?from=never", 400)
        operator.page("/audit-log?who=anna", 400)
        operator.page("/audit-log/table?from=never", 400)

    def test_is_exported_as_it_is_filtered(self, operator: Browser, log: None) -> None:
        page = operator.page("/audit-log?action=wallet.updated")
        [link] = [link for link in page.links if "/audit-log/table" in link]
        response = operator.get(link)
        assert response.headers["Content-Disposition"] == 'attachment; filename="audit-log.csv"'
        [row] = csv.DictReader(io.StringIO(response.text))
        assert (row["subject_id"], row["actor"]) == ("w/1", "bob")


def test_a_change_in_the_console_stands_in_it(operator: Browser, app: Flask, billing: Billing) -> None:
    fields = {"id": "f", "name": "F", "reason": "launch"}
    assert operator.change("/catalogue/features/new", **fields).status_code == 303
    page = operator.page("/audit-log?action=feature_endpoint.created")
    assert "reason: launch" in page.text
    assert "admin/Ada" in page.text
