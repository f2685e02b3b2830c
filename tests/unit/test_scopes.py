"""Every route of the APIs asks for a scope, in the one table."""

from __future__ import annotations

from app.bootstrap import Container
from app.domain.keys import SCOPES_OF_KIND, KeyKind
from app.http import auth
from app.http.scopes import SCOPES
from app.web import create_app
from tests.unit.test_guards import CONFIG


def test_every_route_asks_for_a_scope_of_its_kind_of_key_and_no_other_is_in_the_table() -> None:
    app = create_app(container=Container(CONFIG))
    routes = {
        f"{method} {rule.rule}": rule.rule
        for rule in app.url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
        if rule.rule.startswith((auth.SERVER_PREFIX, auth.ADMIN_PREFIX, "/metrics"))
    }
    assert set(routes) - set(SCOPES) == set(), "give these a scope in app/http/scopes.py"
    assert set(SCOPES) - set(routes) == set(), "there are no such routes"
    for route, path in routes.items():
        kind = KeyKind.SERVICE if path.startswith(auth.SERVER_PREFIX) else KeyKind.OPERATOR
        assert SCOPES[route] in SCOPES_OF_KIND[kind], route


def test_a_change_asks_for_more_than_reading() -> None:
    """What is sent by POST and only looks at something is named here."""
    looking = {"POST /api/admin/prices/estimate"}
    changing = {route for route in SCOPES if not route.startswith("GET ")} - looking
    assert {route for route in changing if SCOPES[route] == "read"} == set()
