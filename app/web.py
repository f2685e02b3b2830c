"""The web application of a process: the API with the hot routes in front of it, and the console beside it.

API and console are separate Flask applications, with their own routes, error handling and authentication. Here both are
given what they share: the container, the request's id and the request log.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable
from typing import TYPE_CHECKING

from flask import Flask

from app import logs, tracing
from app.bootstrap import EXTENSION, Container
from app.config import Config
from app.console.factory import PREFIX, create_console
from app.http import request_context
from app.http.client_address import ClientAddress
from app.http.factory import create_api
from app.http.hot import HotRoutes
from app.http.request_log import RequestLog
from app.startup import spare_what_stays, wait_for_catalog, wait_for_redis
from app.stores.postgres.processes import ProcessKind

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment


def create_app(config: Config | None = None, *, container: Container | None = None) -> Flask:
    """Create the application. It isn't ready to serve yet: nothing is connected. Raises ConfigError.

    Returns the API's Flask application, whose WSGI application also answers the console's paths.
    """
    container = container or Container(config or Config.from_environment(), is_watched=True)
    logs.configure(container.config.log_level)
    log = RequestLog()
    addresses = ClientAddress(container.config)
    api = create_api(container, log, addresses)
    console = create_console(container, lambda app: request_context.register(app, log, addresses, container.meters))
    beside = _Beside(api.wsgi_app, console.wsgi_app)
    api.wsgi_app = HotRoutes(beside, container, log, addresses)  # type: ignore[method-assign]
    return api


def serve(app: Flask) -> None:
    """Make an application ready to serve: wait for the stores, then keep watching them."""
    container: Container = app.extensions[EXTENSION]
    wait_for_catalog(container)
    wait_for_redis(container.redis_client)
    tracing.switch_on(container.config, "web")
    container.watcher.start()
    container.metrics.start(ProcessKind.WEB, f"web@{socket.gethostname()}/{os.getpid()}")
    spare_what_stays()


class _Beside:
    """WSGI middleware that passes paths below the console's prefix to the console, and all others to the API."""

    def __init__(self, api: WSGIApplication, console: WSGIApplication) -> None:
        self._api = api
        self._console = console

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        path: str = environ.get("PATH_INFO", "")
        if path != PREFIX and not path.startswith(f"{PREFIX}/"):
            return self._api(environ, start_response)
        return self._console(environ, start_response)
