"""The API's description, for programs and for people. It needs no key, as it contains nothing secret."""

from __future__ import annotations

from pathlib import Path
from threading import Lock

from flask import Blueprint, Response, current_app, render_template, request

from app.http.json import MEDIA_TYPE
from app.http.openapi import page
from app.http.openapi.describe import Bare, answers
from app.http.openapi.document import Document, build

_HERE = Path(page.__file__).parent

blueprint = Blueprint("description", __name__, template_folder=str(_HERE / "templates"))
blueprint.add_app_template_filter(page.prose, "api_prose")
blueprint.add_app_template_filter(page.breakable, "api_breakable")

_EXTENSION, _PAGE = "tokentill.openapi", "tokentill.openapi.page"
_making = Lock()
# Allows nothing but the page's own style sheet and inline images (data:).
_POLICY = (
    "default-src 'none'; style-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


@blueprint.get("/openapi.json")
@answers(Bare(media_type=MEDIA_TYPE))
def show_description() -> Response:
    """This description, in OpenAPI 3.1."""
    found = document()
    return _cached(Response(found.content, mimetype=MEDIA_TYPE), found.etag)


@blueprint.get("/docs")
@answers(Bare(media_type="text/html"))
def show_docs() -> Response:
    """This description, as a page."""
    found = document()
    response = Response(_page(found), mimetype="text/html")
    response.headers["Content-Security-Policy"] = _POLICY
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Referrer-Policy"] = "no-referrer"
    return _cached(response, found.etag)


@blueprint.get("/docs/description.css")
@answers(Bare(media_type="text/css"))
def show_docs_style() -> Response:
    """The page's style sheet."""
    content = (_HERE / "static" / "description.css").read_bytes()
    response = Response(content, mimetype="text/css")
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.add_etag()
    return _cached(response, response.get_etag()[0] or "")


def document() -> Document:
    """The description of the running application. Each process makes it once."""
    with _making:
        if _EXTENSION not in current_app.extensions:
            current_app.extensions[_EXTENSION] = build(current_app)
        made: Document = current_app.extensions[_EXTENSION]
        return made


def _page(found: Document) -> str:
    """The HTML page of the description. Each process makes it once."""
    with _making:
        if _PAGE not in current_app.extensions:
            current_app.extensions[_PAGE] = render_template(
                "api-description.html",
                info=found.parsed["info"],
                groups=page.groups(found.parsed),
                objects=page.objects(found.parsed),
                etag=found.etag,
            )
        made: str = current_app.extensions[_PAGE]
        return made


def _cached(response: Response, etag: str) -> Response:
    """Have clients revalidate the response each time; it is answered 304 as long as it hasn't changed."""
    response.set_etag(etag)
    response.headers["Cache-Control"] = "no-cache"
    response.make_conditional(request)
    return response
