"""Errors as pages: what happened, whether anything was done, and the request's id for the log."""

from __future__ import annotations

from http import HTTPStatus

import structlog
from flask import Flask, Response, g
from werkzeug.exceptions import HTTPException, MethodNotAllowed, NotFound, RequestEntityTooLarge

from app.console.pages import page
from app.domain.errors import DomainError, Unavailable
from app.wire.statuses import STATUS_OF_CODE

log = structlog.get_logger(__name__)

_WORDS = {
    NotFound: "There is no such page. It may have been settled, replayed or removed meanwhile.",
    MethodNotAllowed: "This address is for forms. Open the page that it belongs to.",
    RequestEntityTooLarge: "What was sent is larger than this form takes. Nothing was done.",
}
STORE_AWAY = (
    "A store doesn't answer, or has no time for this now, so the console can't tell. Calls of service servers go on as "
    "far as they can. Try again in a moment."
)


def register(app: Flask) -> None:
    @app.errorhandler(DomainError)
    def _domain(error: DomainError) -> Response:
        detail = STORE_AWAY if isinstance(error, Unavailable) else _reasons(error)
        return _page(STATUS_OF_CODE[error.code], detail, title=error.message)

    @app.errorhandler(HTTPException)
    def _http(error: HTTPException) -> Response:
        response = _page(error.code or 500, _WORDS.get(type(error)) or str(error.description))
        for name, value in error.get_headers():
            if name.lower() not in ("content-type", "content-length"):
                response.headers[name] = value
        return response

    @app.errorhandler(Exception)
    def _unexpected(error: Exception) -> Response:
        log.error("unexpected_error", exc_info=error)
        return _page(
            500,
            "This is a fault of the server's. The log has it under the id below. If you sent a form, look whether it "
            "was done before you send it again.",
        )


def _page(status: int, detail: str, *, title: str | None = None) -> Response:
    heading = title or HTTPStatus(status).phrase
    return page("error.html", status, code=status, title=heading, detail=detail, request_id=g.get("request_id"))


def _reasons(error: DomainError) -> str:
    return " ".join(reason for reasons in (error.errors or {}).values() for reason in reasons)
