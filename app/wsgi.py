"""The WSGI application for servers, as in `granian --interface wsgi app.wsgi:app`."""

from __future__ import annotations

import sys

from app.config import ConfigError
from app.web import create_app, serve

try:
    app = create_app()
    serve(app)
except ConfigError as error:
    sys.exit(f"tokentill: {error}")
