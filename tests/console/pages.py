"""Which pages the console has."""

from __future__ import annotations

from flask import Flask

# What is no page: files, of which a browser shows nothing.
FILES = {"assets.serve", "audit.table", "usage.table", "wallets.download_statement"}


def pages_of(console: Flask) -> set[str]:
    """The endpoints that a browser can be sent to."""
    found = {rule.endpoint for rule in console.url_map.iter_rules() if "GET" in (rule.methods or ())}
    assert found >= FILES
    return found - FILES
