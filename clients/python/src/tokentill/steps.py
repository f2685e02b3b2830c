"""What the protocol asks of whoever carries it out: send this, wait so long, write that to disk, tell them.

A call is a generator of such steps, which is sent each one's result. Plain and asyncio code differ only in
how they carry a step out (`tokentill.drivers`).
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

import httpx

T = TypeVar("T")


@dataclass(frozen=True)
class Send:
    """POST `body`; answers with the httpx.Response, or the httpx.RequestError that came instead.

    `timeout_seconds` is for all of it, from connecting to the answer's last byte.
    """

    path: str
    body: str
    headers: dict[str, str]
    timeout_seconds: float


@dataclass(frozen=True)
class Sleep:
    seconds: float


@dataclass(frozen=True)
class Disk:
    """A short blocking call; answers with its result, or has its error raised at the step."""

    call: Callable[[], Any]


@dataclass(frozen=True)
class Tell:
    """Call somebody else's function and await what it answers; what it raises is logged, no more."""

    name: str
    call: Callable[[], Any]


class Interrupted(httpx.RequestError):
    """Instead of an answer: the program is ending or the client closed, and no further attempt is made."""


Step: TypeAlias = Send | Sleep | Disk | Tell
Steps: TypeAlias = Generator[Step, Any, T]
