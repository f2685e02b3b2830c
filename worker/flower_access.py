"""Access to flower, which shows who owes how much and can stop workers."""

from __future__ import annotations

from app.config import Config


def access_refusal(config: Config) -> str | None:
    """Why flower mustn't start as it is configured; None where it may."""
    if config.is_local or config.flower_auth:
        return None
    if config.flower_basic_auth and all(all(entry.partition(":")) for entry in config.flower_basic_auth):
        return None
    return (
        "FLOWER_BASIC_AUTH must be user:password (several separated by commas): flower shows who owes how much, and "
        "can stop workers. Only TOKENTILL_MODE=local goes without."
    )
