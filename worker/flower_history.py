"""What flower remembers of tasks, and how it shows them.

Beat sends several tasks a second, most of which find nothing to do. They would push all else out of a bounded history
within minutes, so those are counted and then forgotten.
"""

from __future__ import annotations

import re
from typing import Any

from flower.events import EventsState

FOUND_NOTHING = repr(None)
_RAISED = re.compile(r"""\w+\((['"])(.*)\1\)""", re.DOTALL)
_TEXT = re.compile(r"""(['"])(.*)\1""", re.DOTALL)


class History(EventsState):  # type: ignore[misc]
    """Tasks and workers, built from events. It is pickled into a file, so its name and place are part of a format."""

    def event(self, event: dict[str, Any]) -> None:
        super().event(event)
        if event["type"] == "task-succeeded" and event.get("result") == FOUND_NOTHING:
            self._forget(event["uuid"])

    def _forget(self, task_id: str) -> None:
        if self.tasks.pop(task_id, None) is not None:
            self.search_engine.remove(task_id)


def readable(task: Any) -> Any:
    """A copy of a task as the tables show it: the outcome in words, also where that is an exception."""
    if task.exception is not None:
        task.result = _unwrapped(_RAISED, task.exception)
    elif task.result is not None:
        task.result = _unwrapped(_TEXT, task.result)
    return task


def _unwrapped(shape: re.Pattern[str], text: str) -> str:
    found = shape.fullmatch(text)
    return text if found is None else found[2]
