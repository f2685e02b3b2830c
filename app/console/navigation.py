"""The sections of the console, in the order in which they stand at the top of each page."""

from __future__ import annotations

from dataclasses import dataclass

from flask import current_app, request

from app.console.access import may, scope_of


@dataclass(frozen=True, slots=True)
class Section:
    """`endpoint` is its first page; all pages of the same blueprint, and of those named, are in it."""

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


def sections() -> list[Section]:
    """Those that whoever looks may open."""
    return [
        section
        for section in SECTIONS
        if section.endpoint in current_app.view_functions and may(scope_of(section.endpoint))
    ]
