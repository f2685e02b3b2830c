"""The faults. Each strikes a running server once, undoes itself, and says from when recovery is timed.

This file has the faults that kill, stop or cut off something, and the list of all; `sickness.py` has the others.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from uuid import uuid4

import psycopg
from redis import RedisError

from stack.embedded import EmbeddedServer
from stack.processes import until
from tests.faults import sickness, trouble
from tests.faults.auditor import SPOOL
from tests.faults.book import End
from tests.faults.scene import Scene
from tests.faults.stack_under_test import Program, freeze, thaw

REFUSED_SECONDS = 20.0
REFUSED_SECONDS_SHORT = 5.0
PAUSED_SECONDS = 6.0
PAUSED_SECONDS_SHORT = 3.0
CLOCK_SECONDS = 3_600
# Longer than our processes wait for a store.
FROZEN_SECONDS = 8.0
FROZEN_SECONDS_SHORT = 4.0
FLUSH_UNLESS_NEEDED = """
    if redis.call('EXISTS', KEYS[1]) == 1 then return 0 end
    redis.call('FLUSHALL')
    return 1
"""


def kill_worker_parent(scene: Scene) -> None:
    worker = scene.rng.choice(scene.stack.workers)
    worker.kill_parent()
    scene.killed(f"{worker.name} (parent)")
    # Its children are orphans until the next worker is up.
    scene.later(worker.start)


def kill_worker_child(scene: Scene) -> None:
    worker = scene.rng.choice(scene.stack.workers)
    if worker.kill_child(scene.rng.randrange(8)):
        scene.killed(f"{worker.name} (child)")


def kill_api(scene: Scene) -> None:
    """Kill a whole API process, or only the child that serves, which its parent replaces."""
    api = scene.rng.choice(scene.stack.apis)
    if scene.rng.random() < 0.3 and api.kill_child(0):
        scene.killed(f"{api.name} (child)")
        return
    api.kill()
    scene.killed(api.name)
    scene.later(api.start)


def kill_beat(scene: Scene) -> None:
    scene.stack.beat.kill()
    scene.killed("beat")
    scene.later(scene.stack.beat.start)


def kill_redis(scene: Scene) -> None:
    scene.stack.redis.kill()
    scene.killed("redis")
    away = scene.rng.uniform(0, 2)
    scene.later(lambda: _start_again(scene.stack.redis, away))


def kill_postgres(scene: Scene) -> None:
    scene.without_postgres()
    scene.stack.postgres.kill()
    scene.killed("postgres")
    away = scene.rng.uniform(0, 2)
    scene.later(lambda: _start_again(scene.stack.postgres, away))


def _start_again(server: EmbeddedServer, after_seconds: float) -> None:
    time.sleep(after_seconds)
    server.start()


def flush(scene: Scene) -> None:
    """FLUSHALL, but only while no end is known to Redis alone.

    An end accepted while Postgres was away is only in Redis until Postgres is back. A flush in that time would mean
    that both stores have failed.
    """
    with suppress(RedisError), scene.stack.redis_client() as client:
        if until(lambda: bool(client.eval(FLUSH_UNLESS_NEEDED, 1, SPOOL)), 5):
            scene.note("FLUSHALL")
        else:
            scene.note("no FLUSHALL: the spool isn't empty")


def repeat_messages(scene: Scene) -> None:
    """Stop the workers until messages pile up, then deliver each 1 to 10 times, shuffled, and announce older ends
    again.
    """
    for worker in scene.stack.workers:
        worker.pause()
    time.sleep(scene.rng.uniform(0.5, 1.5))
    total = 0
    with suppress(RedisError), scene.stack.redis_client() as client:
        total = trouble.repeat_messages(client, scene.rng)
    for worker in scene.stack.workers:
        worker.resume()
    again = 0
    with suppress(psycopg.OperationalError), scene.stack.connect() as connection:
        again = trouble.announce_again(scene.stack.environment, connection, scene.rng, ends=200)
    scene.note(f"{total} repeated messages, {again} of ends announced before")


def pause_worker(scene: Scene) -> None:
    worker = scene.rng.choice(scene.stack.workers)
    worker.pause()
    scene.note(f"SIGSTOP {worker.name}")
    seconds = PAUSED_SECONDS_SHORT if scene.is_short else PAUSED_SECONDS
    scene.later(lambda: _resume(scene, worker, seconds))


def _resume(scene: Scene, worker: Program, seconds: float) -> None:
    time.sleep(seconds)
    worker.resume()
    scene.note(f"SIGCONT {worker.name}")


def refuse_postgres(scene: Scene) -> None:
    scene.without_postgres()
    scene.stack.proxy.refuse()
    scene.note("postgres refuses connections")
    seconds = REFUSED_SECONDS_SHORT if scene.is_short else REFUSED_SECONDS
    scene.later(lambda: _allow(scene, seconds))


def _allow(scene: Scene, seconds: float) -> None:
    time.sleep(seconds)
    scene.stack.proxy.allow()
    scene.note("postgres takes connections again")


def freeze_redis(scene: Scene) -> None:
    _freeze(scene, scene.stack.redis, "redis")


def freeze_postgres(scene: Scene) -> None:
    scene.without_postgres()
    _freeze(scene, scene.stack.postgres, "postgres")


def _freeze(scene: Scene, server: EmbeddedServer, name: str) -> None:
    """A frozen server accepts connections and data, and never answers."""
    frozen = freeze(server.pid)
    scene.note(f"SIGSTOP {name}")
    scene.later(lambda: _thaw(scene, frozen, name))


def _thaw(scene: Scene, frozen: list[int], name: str) -> None:
    time.sleep(FROZEN_SECONDS_SHORT if scene.is_short else FROZEN_SECONDS)
    thaw(frozen)
    scene.note(f"SIGCONT {name}")


def cut_commits(scene: Scene) -> None:
    proxy = scene.stack.proxy
    scene.without_postgres()
    proxy.arm("commit", scene.rng.randint(2, 6))
    proxy.arm("insert", scene.rng.randint(2, 6))
    scene.note(f"the next {proxy.armed} connections are cut in their commit")
    until(lambda: not proxy.armed, 5)
    proxy.arm("commit", 0)
    proxy.arm("insert", 0)


def move_clock(scene: Scene) -> None:
    """A worker whose clock is an hour fast or slow replaces another one for a while."""
    worker = scene.rng.choice(scene.stack.workers)
    seconds = scene.rng.choice([-CLOCK_SECONDS, CLOCK_SECONDS])
    worker.kill()
    listening = scene.stack.workers_listening()
    scene.stack.start_skewed(worker, seconds)
    scene.note(f"{worker.name} runs with its clock {seconds:+} s off")
    until(lambda: scene.stack.workers_listening() > listening, 10 if scene.is_short else 20, 0.1)
    time.sleep(2 if scene.is_short else 8)
    worker.kill()
    scene.later(worker.start)


def poison(scene: Scene) -> None:
    """Messages that no task can handle, and ends that can't be settled, in batches with good ones."""
    with suppress(RedisError, OSError), scene.stack.redis_client() as client:
        trouble.poison_messages(scene.stack.environment, scene.rng, 60)
        trouble.garbage_messages(client, scene.rng, 10)
    with suppress(psycopg.OperationalError), scene.stack.connect() as connection:
        trouble.orphan_ends(connection, 3)
    for _ in range(3):
        ends = []
        for kind in ("good", "poison-disagrees", "poison-overflows"):
            for _ in range(scene.rng.randint(1, 4)):
                user_id = f"poisoned-{scene.rng.randrange(3)}"
                ends.append(End(f"{kind}-{uuid4()}", user_id, scene.rng.randint(1, 400)))
        scene.rng.shuffle(ends)
        scene.caller.send_batch([scene.book.add_end(end) for end in ends])
    scene.note("poison in the queue and in the inbox")


KILLS: dict[str, Callable[[Scene], None]] = {
    "worker-parent": kill_worker_parent,
    "worker-child": kill_worker_child,
    "api": kill_api,
    "beat": kill_beat,
    "redis": kill_redis,
    "postgres": kill_postgres,
}
OTHERS: dict[str, Callable[[Scene], None]] = {
    "flush": flush,
    "repeats": repeat_messages,
    "paused-worker": pause_worker,
    "refused": refuse_postgres,
    "frozen-redis": freeze_redis,
    "frozen-postgres": freeze_postgres,
    "cut-commits": cut_commits,
    "clock": move_clock,
    "poison": poison,
}
SICKNESSES: dict[str, Callable[[Scene], None]] = {
    "read-only": sickness.refuse_writes,
    "redis-full": sickness.fill_redis,
    "redis-readonly": sickness.demote_redis,
    "locked-wallet": sickness.lock_wallet,
    "older-postgres": sickness.fail_over_to_an_older_copy,
    "skewed-beat": sickness.skew_beat,
    "retry-storm": sickness.raise_a_storm_of_retries,
    "poisoned-spool": sickness.poison_spool,
    "backends-terminated": sickness.terminate_backends,
}
MIXED = "mixed"
# Left out of mixes, which would take too long: each of these waits by itself.
SLOW = {
    "refused",
    "clock",
    "paused-worker",
    "frozen-redis",
    "frozen-postgres",
    *(SICKNESSES.keys() - {"backends-terminated"}),
}
# For these recovery is timed from their end; for kills from the moment of the kill.
LASTING = SLOW | {"repeats", "cut-commits", "backends-terminated"}
# Both stores stay up and take writes, and a worker runs, so wallets that the fault doesn't touch must not notice.
_HARMLESS = {
    "worker-parent",
    "worker-child",
    "api",
    "beat",
    "paused-worker",
    "clock",
    "poison",
    "locked-wallet",
    "skewed-beat",
    "retry-storm",
    "backends-terminated",
}
# How many seconds longer than just before a fault the settlement of an untouched wallet may take during the fault. When
# Redis takes no messages, the web processes settle, a little later. The time just before counts only up to
# CALM_SECONDS_MAX: a server that is slow without any fault gets no allowance for that.
CALM_SECONDS_MAX = 1.0
BYSTANDER_SECONDS_MAX = {**dict.fromkeys(_HARMLESS, 2.0), "redis-full": 4.0, "redis-readonly": 4.0}
# With one worker still starting, a fault that strikes the other leaves none until the start is done.
WORKER_START_SECONDS = 3.0
# During these faults nothing can be expected to last, so no bystander is timed.
UNPROBED = {"older-postgres"}
ALL: dict[str, Callable[[Scene], None]] = KILLS | OTHERS | SICKNESSES


def mix(scene: Scene) -> None:
    """Two to four faults on top of each other, before any of them ends."""
    quick = [name for name in ALL if name not in SLOW]
    for name in scene.rng.sample(quick, scene.rng.randint(2, 4)):
        if name in KILLS or scene.rng.random() < 0.8:
            # Another fault may have taken its store down at the moment.
            with suppress(RedisError, psycopg.OperationalError):
                ALL[name](scene)
        time.sleep(scene.rng.uniform(0, 0.3))
