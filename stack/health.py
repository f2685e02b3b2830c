"""`python -m stack health NAME`: does that process do its work? Exit status 0, or 1 with a line that says why not.

For the health checks of containers and service managers. It runs every few seconds, so it loads nothing but the
standard library. Web and flower are asked over HTTP. Workers and beat record in `DATA_DIR` when they last worked
(`worker/heartbeats.py`): a worker with each heartbeat that it sends to the broker, beat whenever it has sent what was
due. So neither is healthy while the broker is away. Both recover by themselves once it is back, and need no restart.
"""

from __future__ import annotations

import os
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path

# A worker's heart beats every two seconds, beat's twice a second; both may have to wait for a processor.
SECONDS_MAX = 20.0
HTTP_SECONDS = 4.0

# Ignores the caller's proxy settings for our own server.
HTTP = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def health(name: str, env: Mapping[str, str] = os.environ) -> str | None:
    """What is wrong with the process of that name; None where nothing is."""
    return CHECKS[name](env)


def _web(env: Mapping[str, str]) -> str | None:
    return _ask(env.get("HOST") or "127.0.0.1", env.get("PORT") or "5000", "/readyz")


def _flower(env: Mapping[str, str]) -> str | None:
    return _ask(env.get("FLOWER_ADDRESS") or "127.0.0.1", env.get("FLOWER_PORT") or "5555", "/healthcheck")


def _worker(env: Mapping[str, str]) -> str | None:
    name = (env.get("WORKER_NAME") or "tokentill@%h").replace("%h", socket.gethostname())
    return _look(env, f"worker-{name}")


def _webhooks(env: Mapping[str, str]) -> str | None:
    name = (env.get("WEBHOOKS_WORKER_NAME") or "webhooks@%h").replace("%h", socket.gethostname())
    return _look(env, f"worker-{name}")


def _beat(env: Mapping[str, str]) -> str | None:
    return _look(env, "beat")


CHECKS: dict[str, Callable[[Mapping[str, str]], str | None]] = {
    "web": _web,
    "worker": _worker,
    "webhooks": _webhooks,
    "beat": _beat,
    "flower": _flower,
}


def _ask(host: str, port: str, path: str) -> str | None:
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, host)  # noqa: S104 - compared, not bound
    url = f"http://{host}:{port}{path}"
    try:
        with HTTP.open(url, timeout=HTTP_SECONDS):
            return None
    except urllib.error.HTTPError as error:
        with error:
            return f"{url} answers {error.code}: {error.read(500).decode(errors='replace')}"
    except OSError as error:
        return f"{url}: {error}"


def _look(env: Mapping[str, str], name: str) -> str | None:
    path = Path(env.get("DATA_DIR") or ".data", "heartbeats", name.replace("/", "_"))
    try:
        seen_at = float(path.read_text())
    except (OSError, ValueError):
        return f"{path} doesn't say that it has been at work"
    # The monotonic clock starts anew with the machine, so a time in the future is from before the last start.
    seconds = time.monotonic() - seen_at
    if 0 <= seconds <= SECONDS_MAX:
        return None
    return (
        f"not seen at work for {seconds:.0f} seconds" if seconds > 0 else "not seen at work since the machine started"
    )
