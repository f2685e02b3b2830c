"""Real servers for all tests that need one, started once; every test begins with an empty database and cache."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from alembic import command
from alembic.config import Config as AlembicConfig
from flask import Flask
from flask.testing import FlaskClient
from hypothesis import HealthCheck, settings
from psycopg import sql
from redis import Redis

from app.bootstrap import Container
from app.config import Config
from app.web import create_app
from stack.embedded import PostgresServer, ValkeyServer
from tests import compiled_once
from tests.emptying import empty_stores, forget
from tests.support import Billing

PROJECT = Path(__file__).parent.parent
SERVER_KEY = "dev-server-key"
ADMIN_KEY = "dev-admin-key"

# Each run tries the same examples, so that a change isn't refused for what was there before it, and a slow machine
# fails none. `HYPOTHESIS_PROFILE=explore make test-server` goes looking for others.
PATIENT = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("same", parent=PATIENT, derandomize=True)
settings.register_profile("explore", parent=PATIENT)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE") or "same")
compiled_once.keep()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.get_closest_marker("long") is None)


def pytest_collection_finish() -> None:
    """What is there by now stays: garbage is looked for among what tests make, and less often than it need be."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


@pytest.fixture(scope="session")
def postgres_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    # Nothing here outlives a power failure, and a killed server loses nothing without.
    with PostgresServer(tmp_path_factory.mktemp("postgres"), settings={"fsync": "off"}) as server:
        make_connecting_cheap(server)
        yield server


def make_connecting_cheap(server: PostgresServer) -> None:
    """Thousands of connections are made, and 4,096 rounds of hashing the password would be most of each."""
    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute("SET scram_iterations = 1")
        change = sql.SQL("ALTER ROLE {} PASSWORD {}").format(sql.Identifier(server.user), sql.Literal(server.password))
        connection.execute(change)


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyServer]:
    with ValkeyServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(scope="session")
def postgres_url(postgres_server: PostgresServer) -> Iterator[str]:
    """A database with our schema."""
    url = postgres_server.url
    os.environ["DATABASE_URL"] = url
    os.environ.setdefault("REDIS_URL", "redis://127.0.0.1:1/0")
    os.environ.update(TOKENTILL_MODE="local", SERVER_API_KEY=SERVER_KEY, ADMIN_API_KEY=ADMIN_KEY)
    command.upgrade(AlembicConfig(str(PROJECT / "alembic.ini")), "head")
    yield url
    forget(url)


@pytest.fixture(scope="session")
def environment(
    postgres_url: str, redis_server: ValkeyServer, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, str]:
    """The settings of a process that uses the test servers."""
    settings = {
        "TOKENTILL_MODE": "local",
        "DATABASE_URL": postgres_url,
        "REDIS_URL": redis_server.url,
        "SERVER_API_KEY": SERVER_KEY,
        "ADMIN_API_KEY": ADMIN_KEY,
        "LOG_LEVEL": "WARNING",
        "METRICS_DIR": str(tmp_path_factory.mktemp("numbers")),
    }
    os.environ.update(settings)
    return settings


@pytest.fixture(scope="session")
def config(environment: dict[str, str]) -> Config:
    return Config.from_environment(environment)


@pytest.fixture
def redis_client(redis_server: ValkeyServer) -> Iterator[Redis]:
    with Redis.from_url(redis_server.url, decode_responses=True) as client:
        yield client


@pytest.fixture
def make_container(config: Config, redis_client: Redis) -> Iterator[Callable[[], Container]]:
    """Makes the services of one process after another, on empty stores."""
    empty_stores(config, redis_client)
    made: list[Container] = []

    def make() -> Container:
        container = Container(config, is_watched=True)
        container.catalog.refresh()
        made.append(container)
        return container

    yield make
    for container in made:
        container.close()


@pytest.fixture
def container(make_container: Callable[[], Container]) -> Container:
    return make_container()


@pytest.fixture
def billing(container: Container) -> Billing:
    """Shorthands for setting up a catalog and wallets, and for looking at what became of them."""
    return Billing(container)


@pytest.fixture
def app(container: Container) -> Flask:
    return create_app(container=container)


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return app.test_client()


@pytest.fixture
def server_headers() -> dict[str, str]:
    return {"x-server-api-key": SERVER_KEY}


@pytest.fixture
def admin_headers() -> dict[str, str]:
    return {"x-admin-api-key": ADMIN_KEY}
