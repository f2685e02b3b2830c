"""Lua scripts on wallets, many in one round trip. A script that meets a sick copy fails for that wallet only, and the
copy is dropped.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import structlog
from redis import Redis
from redis.client import Pipeline
from redis.exceptions import NoScriptError, ResponseError

from app.domain.wallets import WalletId
from app.stores.failures import Failure
from app.stores.redis.failures import failure_of
from app.stores.redis.keys import wallet_keys

log = structlog.get_logger(__name__)

_HERE = Path(__file__).parent
PRELUDE = (_HERE / "prelude.lua").read_text()


class WalletScript:
    """A script on one wallet: the shared prelude followed by the script's own file."""

    def __init__(self, name: str) -> None:
        self.source = PRELUDE + (_HERE / f"{name}.lua").read_text()
        self.sha = hashlib.sha1(self.source.encode(), usedforsecurity=False).hexdigest()


class WalletScripts:
    """Runs wallet scripts. Errors that it raises are redis-py's own and concern Redis as a whole."""

    def __init__(self, client: Redis) -> None:
        self._client = client

    def run(self, script: WalletScript, keys: list[str], arguments: list[Any]) -> Any:
        """The script's reply for one wallet; None where the cached copy was sick and has been dropped."""
        [reply] = self.run_all(script, [(keys, arguments)])
        return reply

    def run_all(
        self,
        script: WalletScript,
        calls: Sequence[tuple[list[str], list[Any]]],
        before: Callable[[Pipeline], object] | None = None,
    ) -> list[Any]:
        """Run a script for many wallets in one pipeline, which the command of `before` begins. None stands for a wallet
        whose cached copy was sick and has been dropped.

        A restarted server doesn't know the script: it is loaded, and only the calls that failed for that are repeated.
        """
        replies = self.send(script, calls, before)
        unknown = [i for i, reply in enumerate(replies) if isinstance(reply, NoScriptError)]
        if unknown:
            self._client.script_load(script.source)
            for i, reply in zip(unknown, self.send(script, [calls[i] for i in unknown]), strict=True):
                replies[i] = reply
        for i, reply in enumerate(replies):
            if isinstance(reply, Exception):
                if not is_of_one_wallet(reply):
                    raise reply
                self._drop(calls[i][0][:2], reply)
                replies[i] = None
        return replies

    def send(
        self,
        script: WalletScript,
        calls: Sequence[tuple[list[str], list[Any]]],
        before: Callable[[Pipeline], object] | None = None,
    ) -> list[Any]:
        if not calls:
            return []
        pipeline = self._client.pipeline(transaction=False)
        if before is not None:
            before(pipeline)
        for keys, arguments in calls:
            pipeline.evalsha(script.sha, len(keys), *keys, *arguments)
        return list(pipeline.execute(raise_on_error=False))[-len(calls) :]

    def drop(self, wallet_id: WalletId, error: Exception) -> None:
        """Drop the cached copy of a wallet that can't be worked with."""
        self._drop(wallet_keys(wallet_id), error)

    def _drop(self, keys: Sequence[str], error: Exception) -> None:
        """Drop a copy that no script can work with. Its holds are lost; everything else is loaded again from
        Postgres.
        """
        log.error("sick_copy_dropped", key=keys[0], error=str(error)[:200])
        self._client.unlink(*keys)


def is_of_one_wallet(error: BaseException) -> bool:
    """Whether Redis refused one call because of what is stored under its keys, so that other calls would succeed."""
    # redis-py's subclasses of ResponseError are about connections, scripts and the like.
    return type(error) is ResponseError and failure_of(error) is Failure.REFUSED
