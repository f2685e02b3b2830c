"""What a process does before it serves: it waits for its stores, and freezes loaded objects for garbage collection."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable

import sqlalchemy as sa
import structlog
from redis import Redis, RedisError, ResponseError
from sqlalchemy.exc import SQLAlchemyError

from app.bootstrap import Container
from app.config import Config, ConfigError
from app.stores.postgres.engine import create_engine
from app.stores.redis.client import create_client

log = structlog.get_logger(__name__)

WAIT_SECONDS = 0.5


def wait_for_stores(config: Config) -> None:
    """Wait until both stores answer, logging what is waited for. Leaves no connection open. Raises ConfigError."""
    wait_for_database(config)
    with create_client(config) as client:
        wait_for_redis(client)


def wait_for_database(config: Config) -> None:
    """Wait until Postgres answers, logging what is waited for. Raises ConfigError for a database that can't be used."""
    engine = create_engine(config)

    def ask() -> None:
        with engine.connect() as connection:
            connection.execute(sa.text("SELECT 1"))

    try:
        _wait("DATABASE_URL", ask)
    finally:
        engine.dispose()


def wait_for_catalog(container: Container) -> None:
    """Wait until Postgres answers and has the schema, logging what is waited for. Raises ConfigError."""
    _wait("DATABASE_URL (and `alembic upgrade head`)", container.catalog.refresh)


def wait_for_redis(client: Redis) -> None:
    """Wait until Redis answers, logging what is waited for. Raises ConfigError for a database that it doesn't have."""

    def ask() -> None:
        try:
            client.ping()
        except ResponseError as error:
            if "DB index" in str(error):
                raise ConfigError("REDIS_URL names a database that this Redis doesn't have.") from None
            raise

    _wait("REDIS_URL", ask)


def _wait(name: str, ask: Callable[[], object]) -> None:
    started = time.monotonic()
    attempts = 0
    while True:
        try:
            ask()
        except (SQLAlchemyError, RedisError) as error:
            if attempts % 10 == 0:
                reason = str(getattr(error, "orig", None) or error).splitlines()[0]
                log.warning(f"waiting for {name}", reason=reason, seconds=round(time.monotonic() - started))
            attempts += 1
            time.sleep(WAIT_SECONDS)
        else:
            if attempts:
                log.warning(f"{name} answers", seconds=round(time.monotonic() - started))
            return


def spare_what_stays() -> None:
    """Exclude everything loaded so far from garbage collection. Scanning it would stop the process for more than a
    tenth of a second, and would free nothing.
    """
    gc.freeze()
