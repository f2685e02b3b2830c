"""A transport that answers as the contract says, for what needs no server."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httpx

from tokentill import AsyncTokenProcess, TokenProcess

URL = "http://tokentill.test"


@dataclass
class Call:
    path: str
    body: dict[str, Any]
    headers: httpx.Headers


@dataclass
class Fake:
    """Answers from `answers` first, one a call; then as a server with a rich wallet would."""

    calls: list[Call] = field(default_factory=list)
    answers: list[httpx.Response | Exception | None] = field(default_factory=list)
    start_data: dict[str, Any] = field(default_factory=dict)

    def __call__(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path.removeprefix("/api/token-process/")
        body = json.loads(request.content)
        self.calls.append(Call(path, body, request.headers))
        if self.answers:
            answer = self.answers.pop(0)
            if isinstance(answer, Exception):
                raise answer
            if answer is not None:
                return answer
        return self._as_agreed(path, body)

    def _as_agreed(self, path: str, body: dict[str, Any]) -> httpx.Response:
        if path == "end/batch":
            return success({"results": [_end_result(end) for end in body["ends"]]})
        if path == "end":
            return httpx.Response(200, json=_end_result(body))
        if path == "start":
            user = {"user_id": body["user_id"], "token": 1000, "status": "access-able", "process_id": "p-1"}
            return success({**user, **self.start_data})
        return success({})

    def paths(self) -> list[str]:
        return [call.path for call in self.calls]

    def of(self, path: str) -> list[Call]:
        return [call for call in self.calls if call.path == path]

    def client(self, **options: Any) -> TokenProcess:
        return TokenProcess(URL, "key", transport=httpx.MockTransport(self), **options)

    def async_client(self, **options: Any) -> AsyncTokenProcess:
        return AsyncTokenProcess(URL, "key", transport=httpx.MockTransport(self), **options)


def success(data: dict[str, Any]) -> httpx.Response:
    return httpx.Response(200, json={"success": True, "message": "ok", "data": data})


def failure(status: int, code: str | None = None, **more: Any) -> httpx.Response:
    headers: dict[str, str] = more.pop("headers", {})
    body = {"success": False, "status": status, "message": f"says {status}", **more}
    return httpx.Response(status, json={**body, **({"code": code} if code else {})}, headers=headers)


def _end_result(end: dict[str, Any]) -> dict[str, Any]:
    data = {"user_id": end["user_id"], "token": 989, "cost": 11, "status": "return-able"}
    return {"success": True, "message": "ok", "data": data}


def wait_until(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    """For what another thread does."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "It didn't happen in time"
        time.sleep(0.005)


class Clock:
    """Time that only passes by sleeping."""

    def __init__(self, monkeypatch: Any) -> None:
        self.now = 1_000.0
        self.pauses: list[float] = []
        monkeypatch.setattr("tokentill.core.time.monotonic", lambda: self.now)
        monkeypatch.setattr("tokentill.drivers.time.sleep", self.sleep)

    def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds
