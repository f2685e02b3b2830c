"""Tokentill's server. `flask` run in the project's root finds `create_app` here."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flask import Flask


def create_app() -> Flask:
    """The Flask application with its commands, configured from the environment.

    For command lines: a wrong setting is one line on standard error and exit code 2.
    """
    # Imported late: `import app.domain` must not load Flask.
    from app.cli import register_commands  # noqa: PLC0415
    from app.config import ConfigError  # noqa: PLC0415
    from app.web import create_app as create  # noqa: PLC0415

    try:
        app = create()
    except ConfigError as error:
        sys.stderr.write(f"tokentill: {error}\n")
        sys.exit(2)
    register_commands(app)
    return app
