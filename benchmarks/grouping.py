"""The application without group commit, to measure what it brings: WSGI targets beside `app.http.wsgi:app`.

`benchmarks.grouping:one_by_one`: a group holds one call, so ends are committed one after another.
`benchmarks.grouping:each_alone`: every request commits its own end in its own thread, at the same time as the others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from flask import Flask

from app.access.batcher import Batcher
from app.http.factory import create_app, serve


def __getattr__(name: str) -> Flask:
    # Asked for by the server, in its worker: the application differs by what is patched before it is made.
    if name == "one_by_one":
        _patch("__init__", _with_groups_of_one)
    elif name == "each_alone":
        _patch("submit_all", _run_each_at_once)
    else:
        raise AttributeError(name)
    app = create_app()
    serve(app)
    return app


def _patch(method: str, wrapped_by: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
    setattr(Batcher, method, wrapped_by(getattr(Batcher, method)))


def _with_groups_of_one(construct: Callable[..., None]) -> Callable[..., None]:
    def groups_of_one(self: Batcher[Any, Any], run: Callable[..., Any], **settings: Any) -> None:
        construct(self, run, **{**settings, "calls_max": 1})

    return groups_of_one


def _run_each_at_once(_: Callable[..., Any]) -> Callable[..., list[Any]]:
    def run_each(self: Batcher[Any, Any], calls: Sequence[Any]) -> list[Any]:
        return [self._run([call])[0] for call in calls]

    return run_each
