"""The local stack's output: its own lines, and those of every process with the process's name in front."""

import contextlib
import os
import sys
import threading

COLOURS = {"web": 32, "worker": 36, "beat": 35, "webhooks": 31, "flower": 33, "release": 34, "seed": 34}
NAME_WIDTH = 7


class Console:
    """Whole lines, one writer at a time, flushed: the same for a terminal and a pipe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._coloured = sys.stdout.isatty() and not os.environ.get("NO_COLOR")

    def say(self, text: str) -> None:
        self._write(text)

    def process_line(self, name: str, line: str) -> None:
        label = f"{name:<{NAME_WIDTH}} |"
        if self._coloured:
            label = f"\x1b[{COLOURS.get(name, 37)}m{label}\x1b[0m"
        self._write(f"{label} {line}")

    def _write(self, text: str) -> None:
        # Keep serving when the reader has gone (a closed terminal, `| head`).
        with self._lock, contextlib.suppress(OSError, ValueError):
            sys.stdout.write(text + "\n")
            sys.stdout.flush()
