"""Responses of views."""

from __future__ import annotations

from typing import Any

from flask import Response, render_template


def page(template: str, status: int = 200, /, **values: Any) -> Response:
    """A page rendered from a template."""
    return Response(render_template(template, **values), status, content_type="text/html; charset=utf-8")


def see_other(location: str) -> Response:
    """Redirect to a page by GET, so that a reload repeats nothing."""
    return Response(status=303, headers={"Location": location})
