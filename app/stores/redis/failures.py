"""Classifies errors of Redis: whether they concern Redis as a whole, or one call. Only this module decides that."""

from __future__ import annotations

import re

from redis.exceptions import AuthenticationError, BusyLoadingError, NoPermissionError, ResponseError

from app.stores.failures import Failure

# Error codes with which Redis refuses every write. A rejected password or missing rights count as well: none of our
# calls gets through.
_CANNOT_WRITE = {
    "READONLY",
    "NOREPLICAS",
    "MISCONF",
    "OOM",
    "LOADING",
    "BUSY",
    "UNKILLABLE",
    "MASTERDOWN",
    "CLUSTERDOWN",
    "NOPERM",
    "NOAUTH",
    "WRONGPASS",
}

# Before Redis 7 a script's error carries the error of its command inside: "ERR Error running script (call to f_...):
# @user_script:8: @user_script: 8: -OOM command not allowed ...".
_IN_SCRIPT = re.compile(r"^(?:ERR )?Error running script .*?@user_script: ?\d+: -?([A-Z]+) ")


def failure_of(error: BaseException) -> Failure:
    """The class of a RedisError, or of an OSError on the way to Redis."""
    if isinstance(error, (BusyLoadingError, AuthenticationError, NoPermissionError)):
        return Failure.CANNOT_WRITE
    if not isinstance(error, ResponseError):
        return Failure.AWAY
    return Failure.CANNOT_WRITE if _code(error) in _CANNOT_WRITE else Failure.REFUSED


def _code(error: ResponseError) -> str:
    # For errors that redis-py knows, it removes the code from the text and keeps it in `status_code`.
    if error.status_code and error.status_code != "ERR":
        return str(error.status_code)
    # In a pipeline the error's text comes after the command: "Command # 1 (SET ...) of pipeline caused error: MISCONF
    # ...".
    text = str(error).rpartition("of pipeline caused error: ")[2]
    nested = _IN_SCRIPT.match(text)
    return nested[1] if nested else text.partition(" ")[0]
