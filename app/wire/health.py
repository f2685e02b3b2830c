"""The answer about a process's health, which needs no key."""

from __future__ import annotations

from typing import Annotated, TypedDict

from app.access.gate import StoreState
from app.wire.types import Words


class HealthAnswer(TypedDict):
    status: Annotated[str, Words(("ok",)), "It answers."]


class ReadinessAnswer(TypedDict):
    status: Annotated[str, Words(("ready", "unavailable")), "Whether an end could be accepted."]
    dependencies: Annotated[dict[str, Annotated[str, Words(StoreState)]], "Each store and its state."]
