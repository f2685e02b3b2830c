"""Forms that change something: refused with what was typed, confirmed, done once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from flask import Flask

from app.bootstrap import Container
from app.domain.audit import AuditFilter
from app.domain.catalog import FeatureEndpoint
from tests.console.browser import Browser, Page

NEW = "/catalogue/features/new"
FIELDS = {"id": "chat", "name": "Chat", "min_token": "1,250.5", "reversal_seconds": "90", "reason": "launch"}


def features(container: Container) -> list[FeatureEndpoint]:
    container.catalog.refresh()
    return list(container.catalog.current.features.values())


def test_a_change_is_confirmed_and_then_done(operator: Browser, container: Container) -> None:
    review = operator.review(NEW, **FIELDS)
    assert "The feature endpoint chat is created." in review.text
    assert "1,250.5 tokens" in review.text
    assert "admin/Ada" in review.text
    assert "launch" in review.text
    assert features(container) == []
    page = operator.follow(operator.send(review.form("/console" + NEW), step="do"))
    assert "Feature endpoint chat was created." in page.text
    [feature] = features(container)
    assert (feature.id, feature.min_micros, feature.reversal_seconds) == ("chat", 1_250_500_000, 90)


def test_what_is_wrong_is_told_by_the_field_and_what_was_typed_stays(operator: Browser) -> None:
    page = operator.review(NEW, 400, **{**FIELDS, "min_token": "a lot", "reversal_seconds": "-1", "reason": ""})
    form = page.form("/console" + NEW)
    assert form.value("min_token") == "a lot"
    assert form.value("reversal_seconds") == "-1"
    assert form.value("name") == "Chat"
    assert "Must be a number, such as 1250.5." in page.text
    assert "Must be from 0 to 365d, such as 90s, 15m, 24h or 7d." in page.text
    assert "Must be filled in." in page.text
    wrong = {field["name"] for field in page.fields if field.get("aria-invalid") == "true"}
    assert wrong == {"min_token", "reversal_seconds", "reason"}
    for field in page.fields:
        for described in (field.get("aria-describedby") or "").split():
            assert described in page.ids


def test_what_the_use_case_refuses_is_told_and_may_be_sent_again(operator: Browser, container: Container) -> None:
    assert operator.change(NEW, **FIELDS).status_code == 303
    page = Page.of(operator.change(NEW, **{**FIELDS, "name": "Another"}), 409)
    assert "Feature endpoint exists already" in page.text
    form = page.form("/console" + NEW)
    assert form.value("name") == "Another"
    review = Page.of(operator.send(form, step="review", id="chat-2"))
    assert operator.send(review.form("/console" + NEW), step="do").status_code == 303
    assert [feature.id for feature in features(container)] == ["chat", "chat-2"]


def test_a_confirmation_leads_back_to_the_form_as_it_was(operator: Browser) -> None:
    review = operator.review(NEW, **FIELDS)
    page = Page.of(operator.send(review.form("/console" + NEW), step="edit"))
    assert page.form("/console" + NEW).value("min_token") == "1,250.5"


def test_sent_twice_it_is_done_once(operator: Browser, container: Container) -> None:
    form = operator.review(NEW, **FIELDS).form("/console" + NEW)
    first, second = operator.send(form, step="do"), operator.send(form, step="do")
    assert (first.status_code, second.status_code) == (303, 303)
    assert first.headers["Location"] == second.headers["Location"]
    assert len(features(container)) == 1


def test_sent_twice_at_once_it_is_done_once(app: Flask, operator: Browser, container: Container) -> None:
    form = operator.review(NEW, **FIELDS).form("/console" + NEW)
    cookie = operator.client.get_cookie("tokentill-console")
    assert cookie is not None

    def send(_: int) -> tuple[int, str | None]:
        again = Browser(app)
        again.client.set_cookie("tokentill-console", cookie.value, path="/")
        response = again.send(form, step="do")
        return response.status_code, response.headers.get("Location")

    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(send, range(4)))
    assert len(set(answers)) == 1
    assert answers[0][0] == 303
    assert len(features(container)) == 1


def test_nobody_claims_to_know_what_nobody_knows(
    operator: Browser, container: Container, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.operations.console_sessions.FORM_SECONDS_MAX", 0.2)
    form = operator.review(NEW, **FIELDS).form("/console" + NEW)
    # A server that died between the claim and the change.
    with container.engine.begin() as connection:
        connection.exec_driver_sql(
            "INSERT INTO console_forms (session_hash, id) SELECT token_hash, %(id)s FROM console_sessions",
            {"id": form.value("once")},
        )
    page = Page.of(operator.send(form, step="do"), 409)
    assert "not done a second time" in page.text
    assert features(container) == []


def test_a_form_without_step_or_id_does_nothing(operator: Browser, container: Container) -> None:
    form = operator.review(NEW, **FIELDS).form("/console" + NEW)
    assert operator.send(form, step="other").status_code == 400
    assert operator.send(form, step="do", once="x").status_code == 400
    assert features(container) == []


def test_a_message_is_for_the_session_that_made_it(operator: Browser, app: Flask) -> None:
    location = operator.change(NEW, **FIELDS).headers["Location"]
    assert "was created" in operator.page(location).text
    other = Browser(app)
    other.sign_in()
    assert "was created" not in other.page(location).text
    assert operator.get("/?done=x").status_code == 200


def test_the_audit_log_says_who_and_why(operator: Browser, container: Container) -> None:
    operator.change(NEW, **FIELDS)
    [entry] = container.audit_log.list(AuditFilter(action="feature_endpoint.created"), 10).items
    assert (entry.actor, entry.change.subject_id) == ("admin/Ada", "chat")
    assert entry.change.after is not None
    assert entry.change.after["reason"] == "launch"
    assert entry.address == "127.0.0.1"


def test_without_the_scope_nothing_is_offered_and_nothing_done(reader: Browser, container: Container) -> None:
    assert "New feature endpoint" not in reader.page("/catalogue").text
    for path in (NEW, "/catalogue/packages/new", "/catalogue/profit-rules/new", "/catalogue/prices/new"):
        page = reader.page(path, 403)
        assert "catalog" in page.text
    form = reader.page("/").form("/console/sign-out")
    response = reader.client.post("/console" + NEW, data={**dict(form.values), **FIELDS, "step": "do"})
    assert response.status_code == 403
    assert features(container) == []
