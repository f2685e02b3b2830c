"""Which wallets may have open holds, so that the total of all holds can be added up without reading every wallet.

A wallet is noted in the round trip that grants its hold, by the clock of the granting process. The note is kept a day
longer than the hold can live, because clocks may differ by up to a day. A note that is kept too long costs one read and
nothing else.
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
    """Note wallets that are about to get a hold, with the hold's life; notes that ended long ago are removed."""
    now = time.time()
    until: dict[str, float] = {
        wallet_id: now + seconds + CLOCKS_DIFFER_SECONDS_MAX for wallet_id, seconds in lives_seconds.items()
    }
    pipeline.zadd(HOLDERS_KEY, until, gt=True)
    pipeline.zremrangebyscore(HOLDERS_KEY, "-inf", now - CLOCKS_DIFFER_SECONDS_MAX)


def names(client: Redis) -> Sequence[WalletId]:
    return cast("Sequence[WalletId]", client.zrange(HOLDERS_KEY, 0, -1))
