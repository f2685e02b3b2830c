"""Which wallets may have open holds: so what all of them hold is added up without a look at every wallet.

Noted in the round trip that grants a hold, by the clock of the process that grants it, and kept a day longer than the
hold may live, as clocks may differ by so much. A wallet that is noted for longer costs a look and nothing else.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import cast

from redis import Redis
from redis.client import Pipeline

from app.domain.wallets import WalletId
from app.stores.redis.keys import HOLDERS_KEY

CLOCKS_DIFFER_SECONDS_MAX = 24 * 3_600


def note(pipeline: Pipeline, lives_seconds: Mapping[WalletId, float]) -> None:
    """Note wallets that are about to be given a hold, with how long it lives; who is over long ago is struck off."""
    now = time.time()
    until: dict[str, float] = {
        wallet_id: now + seconds + CLOCKS_DIFFER_SECONDS_MAX for wallet_id, seconds in lives_seconds.items()
    }
    pipeline.zadd(HOLDERS_KEY, until, gt=True)
    pipeline.zremrangebyscore(HOLDERS_KEY, "-inf", now - CLOCKS_DIFFER_SECONDS_MAX)


def names(client: Redis) -> Sequence[WalletId]:
    return cast("Sequence[WalletId]", client.zrange(HOLDERS_KEY, 0, -1))
