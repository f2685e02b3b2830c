"""Pages that change something: a form, a confirmation that says what will happen and who does it, then the change.

A view calls `change`, which does everything. It answers

1. GET: with the form, or at once with the confirmation if there is nothing to fill in;
2. POST `step=review`: with what is wrong, or with the confirmation, which carries along what was typed;
3. POST `step=do`: with the change, and a redirect to a page that reports it (303, so that a reload repeats nothing).

Each form shown has its own id, so that the change is made only once: a form sent again, by a double click or a reload,
is redirected like the first one. If a use case refuses the change, the form is shown again with the reasons beside the
fields and all that was typed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode, urlsplit
from uuid import UUID, uuid4

from flask import Response, request
from werkzeug.exceptions import BadRequest

from app.console.access import current_session, services
from app.console.forms import Filled, Form, Kind
from app.console.pages import page, see_other
from app.domain.errors import DomainError
from app.wire.statuses import STATUS_OF_CODE

ONCE_FIELD = "once"
STEP_FIELD = "step"
DONE_PARAMETER = "done"


@dataclass(frozen=True, slots=True)
class Review:
    """The content of a confirmation: a sentence, facts as (label, value), and a warning."""

    effect: str
    facts: Sequence[tuple[str, Any]] = ()
    warning: str | None = None


@dataclass(frozen=True, slots=True)
class Done:
    """Where to redirect to after a change, and the message to show there.

    `answer` is shown instead of a redirect, for a secret that is shown only once. A form sent again is redirected.
    """

    location: str
    message: str
    answer: Response | None = None


def change(
    form: Form,
    *,
    title: str,
    action: str,
    back: str,
    review: Callable[[Mapping[str, Any]], Review] | None,
    perform: Callable[[Mapping[str, Any]], Done],
    initial: Mapping[str, str | Sequence[str]] | None = None,
    intro: str = "",
    is_dangerous: bool = False,
) -> Response:
    """The answer to GET or POST of a page that changes something.

    `action` is the label of the last button ("Create the package"), `back` the address to which cancelling leads.
    `review` and `perform` get the values of the form, and may raise DomainError. Without a `review` there is no
    confirmation: for changes that don't affect billing, and for files, which a confirmation can't carry along.
    """
    form_page = _Page(form, title, action, back, intro, is_dangerous, is_confirmed=review is not None)
    if request.method == "GET":
        blank = form.blank(initial)
        if review is not None and not form.fields:
            # There is nothing to fill in, so start with the confirmation.
            return form_page.confirm(blank, review({}))
        return form_page.show(blank)
    filled = form.read(request.form)
    step = request.form.get(STEP_FIELD)
    if step == "edit" or not filled.is_valid:
        return form_page.show(filled, 200 if filled.is_valid or step == "edit" else 400)
    if step == "review" and review is not None:
        try:
            told = review(filled.values)
        except DomainError as error:
            return form_page.refuse(filled, error)
        return form_page.confirm(filled, told)
    if step != "do":
        raise BadRequest("A form without a step. Nothing was done.")
    return _do_once(form_page, filled, perform)


@dataclass(frozen=True, slots=True)
class _Page:
    form: Form
    title: str
    action: str
    back: str
    intro: str
    is_dangerous: bool
    is_confirmed: bool

    @property
    def has_file(self) -> bool:
        return any(each.kind is Kind.FILE for each in self.form.fields)

    def show(self, filled: Filled, status: int = 200) -> Response:
        return page("form.html", status, page=self, filled=filled, once=uuid4())

    def refuse(self, filled: Filled, error: DomainError) -> Response:
        return self.show(filled.refused(error), STATUS_OF_CODE[error.code])

    def confirm(self, filled: Filled, told: Review) -> Response:
        return page("confirm.html", page=self, filled=filled, review=told, once=uuid4())


def _do_once(form_page: _Page, filled: Filled, perform: Callable[[Mapping[str, Any]], Done]) -> Response:
    session, sessions = current_session(), services().console_sessions
    form_id = _form_id(request.form.get(ONCE_FIELD, ""))
    before = sessions.claim_form(session, form_id)
    if before is not None:
        if before.location is None:
            return page("unknown_outcome.html", 409, page=form_page)
        return _go_on(before.location, form_id)
    try:
        done = perform(filled.values)
    except DomainError as error:
        sessions.release_form(session, form_id)
        return form_page.refuse(filled, error)
    sessions.finish_form(session, form_id, location=done.location, message=done.message)
    return done.answer or _go_on(done.location, form_id)


def _go_on(location: str, form_id: UUID) -> Response:
    mark = "&" if urlsplit(location).query else "?"
    return see_other(f"{location}{mark}{urlencode({DONE_PARAMETER: form_id})}")


def _form_id(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise BadRequest("A form without its id. Nothing was done.") from None


def notice() -> str | None:
    """The message about the change whose form led to this page."""
    given = request.args.get(DONE_PARAMETER)
    if not given or request.method != "GET":
        return None
    try:
        form_id = UUID(given)
    except ValueError:
        return None
    found = services().console_sessions.form(current_session(), form_id)
    return None if found is None else found.message
