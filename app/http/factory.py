"""The API's Flask application."""

from __future__ import annotations

from flask import Flask, Response, request

from app.bootstrap import EXTENSION, Container
from app.http import auth, errors, query, request_context
from app.http.calls import BODY_BYTES_MAX
from app.http.client_address import ClientAddress
from app.http.request_log import RequestLog
from app.http.routes import (
    admin,
    audit_log,
    balance_rules,
    bulk_actions,
    corrections,
    description,
    failed_ends,
    health,
    keys,
    metrics,
    operations,
    price_imports,
    prices,
    reports,
    repricings,
    samples,
    statements,
    success,
    token_process,
    top_ups,
    webhooks,
)


class Api(Flask):
    """A Flask application whose automatic answers are in the envelope too."""

    def make_default_options_response(self) -> Response:
        methods = sorted(self.create_url_adapter(request).allowed_methods())  # type: ignore[union-attr]
        response = success("Methods", {"methods": methods})
        response.allow.update(methods)
        return response


def create_api(container: Container, log: RequestLog, addresses: ClientAddress) -> Flask:
    """The API with all routes as Flask views. `app/web.py` puts the hot routes in front of it."""
    app = Api("tokentill")
    app.config["MAX_CONTENT_LENGTH"] = BODY_BYTES_MAX
    # No redirects to a corrected path, as they wouldn't be in the envelope: any other path is unknown.
    app.url_map.strict_slashes = False
    app.url_map.merge_slashes = False
    app.extensions[EXTENSION] = container
    # The order matters: the request gets its id before it can be refused; then its key and its query are checked.
    request_context.register(app, log, addresses, container.meters)
    auth.register(app, container)
    query.register(app)
    errors.register(app)
    app.register_blueprint(token_process.blueprint)
    app.register_blueprint(admin.blueprint)
    app.register_blueprint(prices.blueprint)
    app.register_blueprint(operations.blueprint)
    app.register_blueprint(failed_ends.blueprint)
    app.register_blueprint(bulk_actions.blueprint)
    app.register_blueprint(price_imports.blueprint)
    app.register_blueprint(corrections.blueprint)
    app.register_blueprint(repricings.blueprint)
    app.register_blueprint(top_ups.blueprint)
    app.register_blueprint(statements.blueprint)
    app.register_blueprint(reports.blueprint)
    app.register_blueprint(samples.blueprint)
    app.register_blueprint(keys.blueprint)
    app.register_blueprint(audit_log.blueprint)
    app.register_blueprint(webhooks.blueprint)
    app.register_blueprint(balance_rules.blueprint)
    app.register_blueprint(health.blueprint)
    app.register_blueprint(metrics.blueprint)
    app.register_blueprint(description.blueprint)
    return app
