"""The sections of the console, in the order of the navigation at the top, and the breadcrumbs of each page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from flask import current_app, request, url_for
from werkzeug.exceptions import HTTPException

from app.console.access import may, scope_of


@dataclass(frozen=True, slots=True)
class Section:
    """`endpoint` is the first page of the section. All pages of its blueprint, and of `blueprints`, belong to it."""

    label: str
    endpoint: str
    blueprints: tuple[str, ...] = ()

    @property
    def is_current(self) -> bool:
        return request.blueprint in (self.endpoint.partition(".")[0], *self.blueprints)


SECTIONS = (
    Section("Overview", "overview.show"),
    Section("Failed ends", "failed_ends.index", ("bulk_actions",)),
    Section("Wallets", "wallets.index", ("wallet_changes",)),
    Section("Top-ups", "top_ups.index", ("top_up_schedules",)),
    Section("Catalogue", "catalog.features", ("profit_rules", "prices", "price_imports")),
    Section("Usage and revenue", "usage.show"),
    Section("Webhooks", "webhooks.index", ("balance_rules",)),
    Section("Keys", "keys.index"),
    Section("Audit log", "audit.index"),
)


@dataclass(frozen=True, slots=True)
class Below:
    """A page below a `parent` page. `label` is a template of its name, filled in from the parts of its address."""

    parent: str
    label: str


# All pages but the first pages of sections, and forms. A form is below the page to which cancelling it leads.
PAGES: Mapping[str, Below] = {
    "failed_ends.show": Below("failed_ends.index", "End"),
    "bulk_actions.index": Below("failed_ends.index", "Replays and write-offs"),
    "bulk_actions.show": Below("bulk_actions.index", "No. {number}"),
    "wallets.show": Below("wallets.index", "{user_id}"),
    "wallets.statement": Below("wallets.show", "Statement"),
    "wallets.holds": Below("wallets.show", "Open holds"),
    "top_ups.show": Below("top_ups.index", "Top-up {number}"),
    "top_up_schedules.index": Below("top_ups.index", "Schedules"),
    "top_up_schedules.show": Below("top_up_schedules.index", "Schedule {number}"),
    "catalog.packages": Below("catalog.features", "Packages"),
    "prices.index": Below("catalog.features", "Prices"),
    "prices.calculator": Below("catalog.features", "Calculator"),
    "profit_rules.index": Below("catalog.features", "Profit rules"),
    "price_imports.index": Below("catalog.features", "Price lists"),
    "price_imports.show": Below("price_imports.index", "Import {number}"),
    "webhooks.show": Below("webhooks.index", "Endpoint {number}"),
    "webhooks.events": Below("webhooks.index", "Events"),
    "webhooks.event": Below("webhooks.events", "Event"),
    "balance_rules.index": Below("webhooks.index", "Balance rules"),
    "balance_rules.requests": Below("webhooks.index", "Top-up requests"),
    "keys.show": Below("keys.index", "Key {key_id}"),
}


def above() -> list[tuple[str, str]]:
    """The pages above the present one as (label, address), from its section down."""
    found = PAGES.get(request.endpoint or "")
    return [] if found is None else _down_to(found.parent, request.view_args or {})


def down_to(address: str) -> list[tuple[str, str]]:
    """The page at an address and the pages above it as (label, address), from its section down."""
    try:
        endpoint, arguments = current_app.url_map.bind("").match(urlsplit(address).path, method="GET")
    except HTTPException:
        return []
    found = _down_to(endpoint, arguments)
    return [*found[:-1], *((label, address) for label, _ in found[-1:])]


def is_within(tabs: Sequence[str], endpoint: str) -> bool:
    """Whether the present page is the tab `endpoint`, or is below it without being below another tab."""
    here: str | None = request.endpoint
    while here is not None and here not in tabs:
        here = PAGES[here].parent if here in PAGES else None
    return here == endpoint


def _down_to(endpoint: str, arguments: Mapping[str, Any]) -> list[tuple[str, str]]:
    found = PAGES.get(endpoint)
    if found is None:
        return [(section.label, url_for(endpoint)) for section in SECTIONS if section.endpoint == endpoint]
    needed = {name for rule in current_app.url_map.iter_rules(endpoint) for name in rule.arguments}
    given = {name: value for name, value in arguments.items() if name in needed}
    return [*_down_to(found.parent, arguments), (found.label.format(**arguments), url_for(endpoint, **given))]


def sections() -> list[Section]:
    """The sections that the present session may open."""
    return [
        section
        for section in SECTIONS
        if section.endpoint in current_app.view_functions and may(scope_of(section.endpoint))
    ]
