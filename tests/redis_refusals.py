"""Ways in which a running Redis answers and takes no writes. Each is begun and ended by the same call."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from redis import Redis, RedisError, ResponseError

from tests.processes import wait_until

Refusal = Callable[[Redis, bool], None]


def full(admin: Redis, is_on: bool) -> None:
    """OOM: what it holds is more than it may."""
    admin.config_set("maxmemory", 1 if is_on else 0)


def without_replicas(admin: Redis, is_on: bool) -> None:
    """NOREPLICAS: fewer follow it than have to."""
    admin.config_set("min-replicas-to-write", 1 if is_on else 0)


def read_only(admin: Redis, is_on: bool) -> None:
    """READONLY: it has been made a replica, of a server that isn't there."""
    admin.execute_command("REPLICAOF", *(("127.0.0.1", "1") if is_on else ("NO", "ONE")))


def unsaved(admin: Redis, is_on: bool) -> None:
    """MISCONF: its last snapshot failed, as a folder stands where the file belongs."""
    if not is_on:
        admin.config_set("save", "")
        return
    Path(admin.config_get("dir")["dir"], "dump.rdb", "in-the-way").mkdir(parents=True, exist_ok=True)
    admin.config_set("save", "3600 1")
    admin.bgsave()

    def is_refused() -> bool:
        try:
            admin.set("probe", "")
        except ResponseError as error:
            return str(error).startswith("MISCONF")
        return False

    wait_until(is_refused, what="the failed snapshot")


def busy(admin: Redis, is_on: bool) -> None:
    """BUSY: a script of somebody else's runs and runs."""
    if not is_on:
        admin.execute_command("SCRIPT KILL")
        return
    admin.config_set("busy-reply-threshold", 50)
    address = {name: admin.connection_pool.connection_kwargs[name] for name in ("host", "port", "password")}

    def run() -> None:
        with Redis(**address, socket_timeout=60) as client, suppress(RedisError):
            client.eval("while true do end", 0)

    threading.Thread(target=run, daemon=True).start()
    time.sleep(0.2)


REFUSALS: tuple[Refusal, ...] = (full, without_replicas, read_only, unsaved, busy)
