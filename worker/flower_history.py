"""Flower's history of tasks, and how it shows them.

Beat sends several tasks a second, most of which find nothing to do. They would push everything else out of the bounded
history within minutes, so they are counted and then dropped.
"""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

from flower.events import EventsState
from flower.utils.search import TaskSearchEngine

FOUND_NOTHING = repr(None)
_RAISED = re.compile(r"""\w+\((['"])(.*)\1\)""", re.DOTALL)
_TEXT = re.compile(r"""(['"])(.*)\1""", re.DOTALL)


class Search(TaskSearchEngine):  # type: ignore[misc]
    """Finds tasks by what the tables show. Flower's own search knows the result of successful tasks only."""

    def _index(self, task_id: str, task: Any) -> None:
        told = {name: getattr(task, name) for name in ("uuid", "name", "state", "worker", "args", "kwargs")}
        super()._index(task_id, SimpleNamespace(**told, result=_outcome(task)))


class History(EventsState):  # type: ignore[misc]
    """Tasks and workers, built from events. It is pickled into a file, so renaming or moving this class breaks old
    files.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.search_engine = Search()
        self.search_engine.rebuild(self.tasks.items())

    def event(self, event: dict[str, Any]) -> None:
        super().event(event)
        if event["type"] == "task-succeeded" and event.get("result") == FOUND_NOTHING:
            self._forget(event["uuid"])

    def _forget(self, task_id: str) -> None:
        if self.tasks.pop(task_id, None) is not None:
            self.search_engine.remove(task_id)


def readable(task: Any) -> Any:
    """The task as the tables show it: its result as text, also where that is an exception."""
    task.result = _outcome(task)
    return task


def _outcome(task: Any) -> str | None:
    if task.exception is not None:
        return _unwrapped(_RAISED, task.exception)
    return None if task.result is None else _unwrapped(_TEXT, task.result)


def _unwrapped(shape: re.Pattern[str], text: str) -> str:
    found = shape.fullmatch(text)
    return text if found is None else found[2]
