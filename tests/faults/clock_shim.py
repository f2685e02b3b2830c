"""Runs Celery with a clock that is off: `python -m tests.faults.clock_shim SECONDS celery-argument...`

A replacement for libfaketime, which not every machine has: the time of day that Python code reads is moved before
anything else is imported, and the worker's children inherit this by fork. Monotonic clocks and the clocks of other
processes aren't changed.
"""

from __future__ import annotations

import datetime
import sys
import time
from typing import Any


class _Kind(type):
    def __instancecheck__(cls, instance: Any) -> bool:
        # Datetimes made by C code are instances of the real class.
        return isinstance(instance, _REAL)

    def __subclasscheck__(cls, subclass: type) -> bool:
        return issubclass(subclass, _REAL)


_REAL = datetime.datetime


def move(seconds: float) -> None:
    """Move this process's time of day by this many seconds."""
    real_time, real_time_ns = time.time, time.time_ns
    offset = datetime.timedelta(seconds=seconds)

    class Moved(_REAL, metaclass=_Kind):
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> Any:
            return _REAL.now(tz) + offset

        @classmethod
        def utcnow(cls) -> Any:
            return _REAL.now(datetime.UTC).replace(tzinfo=None) + offset

        @classmethod
        def today(cls) -> Any:
            return cls.now()

    time.time = lambda: real_time() + seconds
    time.time_ns = lambda: real_time_ns() + int(seconds * 1e9)
    datetime.datetime = Moved  # type: ignore[misc]


def main() -> None:
    move(float(sys.argv[1]))
    sys.argv[:] = ["celery", *sys.argv[2:]]
    # Imported only now, so that Celery finds the moved clock.
    from celery.__main__ import main as celery

    celery()


if __name__ == "__main__":
    main()
