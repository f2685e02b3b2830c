"""What the local stack says: its own lines, and every process's lines with the name in front."""

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
        # A reader that went away (a closed terminal, `| head`) is no reason to stop serving.
        with self._lock, contextlib.suppress(OSError, ValueError):
            sys.stdout.write(text + "\n")
            sys.stdout.flush()
