"""The routes, one file per audience."""

from __future__ import annotations

from typing import Any

from flask import Response, current_app

from app.bootstrap import EXTENSION, Container
from app.http.json import respond


def container() -> Container:
    """The services of the running application."""
    found: Container = current_app.extensions[EXTENSION]
    return found


def success(message: str, data: dict[str, Any], status: int = 200) -> Response:
    return respond({"success": True, "message": message, "data": data}, status)
