"""The console's Flask application."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

import jinja2
from flask import Flask, g, request
from markupsafe import Markup

from app.bootstrap import EXTENSION, Container
from app.console import access, assets, changes, charts, errors, navigation, security, text
from app.console.assets import HTMX, asset_url
from app.console.ids import IdConverter
from app.console.views import (
    audit,
    balance_rules,
    bulk_actions,
    catalog,
    failed_ends,
    keys,
    overview,
    price_imports,
    prices,
    profit_rules,
    sign_in,
    top_up_schedules,
    top_ups,
    usage,
    wallet_changes,
    wallets,
    webhooks,
)

PREFIX = "/console"
# The limit of forms without files. A view that takes files sets its own by `takes_files`.
FORM_BYTES_MAX = 256 * 1024
FORM_PARTS_MAX = 2_000

BLUEPRINTS = (
    assets.blueprint,
    sign_in.blueprint,
    overview.blueprint,
    failed_ends.blueprint,
    bulk_actions.blueprint,
    wallets.blueprint,
    wallet_changes.blueprint,
    top_ups.blueprint,
    top_up_schedules.blueprint,
    catalog.blueprint,
    profit_rules.blueprint,
    prices.blueprint,
    price_imports.blueprint,
    usage.blueprint,
    webhooks.blueprint,
    balance_rules.blueprint,
    keys.blueprint,
    audit.blueprint,
)


def create_console(container: Container, begin: Callable[[Flask], None]) -> Flask:
    """Create the console with all pages. `begin` registers what comes first in a request: its id and its log line."""
    app = Flask(__name__, static_folder=None, template_folder="templates")
    app.config["MAX_CONTENT_LENGTH"] = FORM_BYTES_MAX
    app.config["MAX_FORM_PARTS"] = FORM_PARTS_MAX
    app.url_map.merge_slashes = False
    app.url_map.converters["id"] = IdConverter
    app.extensions[EXTENSION] = container
    begin(app)
    # After `begin`, so that refused requests have an id and a log line, too.
    security.register(app)
    access.register(app)
    errors.register(app)
    for blueprint in BLUEPRINTS:
        app.register_blueprint(blueprint, url_prefix=PREFIX + (blueprint.url_prefix or ""))
    _templates(app)
    return app


def _templates(app: Flask) -> None:
    environment = app.jinja_env
    environment.undefined = jinja2.StrictUndefined
    environment.trim_blocks = environment.lstrip_blocks = True
    environment.globals.update(
        above=navigation.above,
        asset_url=asset_url,
        bars=charts.bars,
        csrf_token=access.csrf_token,
        down_to=navigation.down_to,
        htmx=HTMX,
        may=access.may,
        money=money,
        notice=changes.notice,
        now=_now,
        sections=navigation.sections,
        session_or_none=lambda: g.get("console_session"),
        text=text,
        theme=theme,
    )
    # Created last, as its macros use the globals above.
    environment.globals["ui"] = environment.get_template("ui.html").module


def _now() -> datetime:
    return access.services().clock.now()


def theme() -> str:
    """The theme chosen in this browser. Empty: follow the system's."""
    chosen = request.cookies.get(access.THEME_COOKIE, "")
    return chosen if chosen in ("light", "dark") else ""


def money(micros: int | None, *, unknown: str = "-") -> Any:
    """An amount as HTML: shown rounded, but exact when copied, pointed at, or read by a screen reader."""
    if micros is None:
        return unknown
    found = text.money(micros)
    rest = Markup('<span class="rest">{}</span>').format(found.rest) if found.rest else ""
    sign = " negative" if found.is_negative else ""
    return Markup('<data class="money{}" value="{}" title="{} tokens">{}{}</data>').format(
        sign, text.tokens(micros), found.exact, found.shown, rest
    )
