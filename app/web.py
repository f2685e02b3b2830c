"""The web application of a process: the API, with the hot routes in front of it."""

from __future__ import annotations

import os
import socket

from flask import Flask

from app import logs, tracing
from app.bootstrap import EXTENSION, Container, wait_for_catalog, wait_for_redis
from app.config import Config
from app.http.client_address import ClientAddress
from app.http.factory import create_api
from app.http.hot import HotRoutes
from app.http.request_log import RequestLog
from app.stores.postgres.processes import ProcessKind


def create_app(config: Config | None = None, *, container: Container | None = None) -> Flask:
    """The application, not serving yet: nothing is connected. Raises ConfigError."""
    container = container or Container(config or Config.from_environment(), is_watched=True)
    logs.configure(container.config.log_level)
    log = RequestLog()
    addresses = ClientAddress(container.config)
    api = create_api(container, log, addresses)
    api.wsgi_app = HotRoutes(api.wsgi_app, container, log, addresses)  # type: ignore[method-assign]
    return api


def serve(app: Flask) -> None:
    """Make an application ready to serve: wait for the stores, then keep watching them."""
    container: Container = app.extensions[EXTENSION]
    wait_for_catalog(container)
    wait_for_redis(container.redis_client)
    tracing.switch_on(container.config, "web")
    container.watcher.start()
    container.metrics.start(ProcessKind.WEB, f"web@{socket.gethostname()}/{os.getpid()}")
