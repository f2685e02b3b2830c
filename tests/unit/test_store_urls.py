"""What the URLs of the stores may say. Whatever is wrong is told in one line, without a part of the URL."""

from __future__ import annotations

from pathlib import Path

import pytest
import sqlalchemy as sa

from app.config import Config, ConfigError
from app.store_urls import RedisUrl, postgres_url
from stack.processes import LaunchError
from stack.settings import Settings
from tests.unit.test_config import GOOD

SECRETS = ("secret", "pass", "word", "rest")

NO_POSTGRES = [
    "postgresql://",
    "postgresql:///name",
    "postgresql:secret",
    "mysql://u:secret@db/name",
    "postgresql://u:secret@db",
    "postgresql://u:secret@db/",
    "postgresql://u:secret@db/name/more",
    "postgresql://u:secret@one,two/name",
    "postgresql://u:secret@one:5432,two:5433/name",
    "postgresql://u:secret@/name?host=one,two",
    "postgresql://u:secret@/name?host=one",
    "postgresql://u:secret@db/name?host=other",
    "postgresql://u:secret@db/name?hostaddr=1.2.3.4,5.6.7.8",
    "postgresql://u:secret@db:port/name",
    "postgresql://u:secret@db:0/name",
    "postgresql://u:secret@db:65536/name",
    "postgresql://u:secret@[::1/name",
    "postgresql://u:pass/word@db/name",
    "postgresql://u:pass@word@db/name",
    "postgresql://u:pass#word@db/name",
    "postgresql://u:pass?word@db/name",
    "postgresql://u:pass?word=rest@db/name",
    "postgresql://u:pass%word@db/name",
    "postgresql://u:pass word@db/name",
    "postgresql://u:pass\nword@db/name",
    "postgresql://u:secret@db/name?sslmod=require",
    "postgresql://u:secret@db/name?sslmode=on",
    "postgresql://u:secret@db/name?sslmode=require&sslmode=disable",
    "postgresql://u:secret@db/name?sslrootcert=/nowhere/ca.pem",
    "postgresql://u:secret@db/name?options=-csearch_path%3Da",
]
NO_REDIS = [
    "redis://",
    "redis:///0",
    "cache:6379",
    "memcached://cache",
    "redis://:secret@cache/abc",
    "redis://:secret@cache/-1",
    "redis://:secret@cache/0/1",
    "redis://:secret@cache/1.5",
    "redis://:secret@cache/0x1",
    "redis://:secret@one,two/0",
    "redis://:secret@one:6379,two:6379/0",
    "redis://:secret@cache:port/0",
    "redis://:pass/word@cache/0",
    "redis://:pass@word@cache/0",
    "redis://:pass#word@cache/0",
    "redis://:pass?word@cache/0",
    "redis://:secret@cache/0?db=1",
    "redis://:secret@cache/0?ssl_ca_certs=/nowhere/ca.pem",
    "rediss://:secret@cache/0?ssl_ca_certs=/nowhere/ca.pem",
    "rediss://:secret@cache/0?ssl_cert_reqs=none",
    "rediss://:secret@cache/0?ssl_check_hostname=maybe",
    "redis+sentinel://:secret@one,two",
    "redis+sentinel://:secret@one,two/",
    "redis+sentinel://:secret@one,two/service/abc",
    "redis+sentinel://:secret@one,/service/0",
    "redis+sentinel://:secret@one,two:port/service/0",
]


@pytest.mark.parametrize(
    ("name", "value"),
    [*(("DATABASE_URL", url) for url in NO_POSTGRES), *(("REDIS_URL", url) for url in NO_REDIS)],
)
def test_refused(name: str, value: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Config.from_environment({**GOOD, name: value})
    message = str(caught.value)
    assert message.startswith(f"{name} ")
    assert "\n" not in message
    told = message.replace("in a password", "").replace("user:password@host", "")
    assert not any(secret in told for secret in SECRETS), message
    # Nor in the traceback of a process that shows one.
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__
    with pytest.raises(LaunchError, match=f"^{name} "):
        Settings.from_environment({name: value})


@pytest.mark.parametrize(
    "url",
    [
        "postgres://u:p@db/name",
        "postgresql+psycopg://u:p@db:5433/name",
        "postgresql://db/name",
        "postgresql://u:a%2Fb%40c%3A%23@db/name",
        "postgresql://u:a:b@db/name",
        "postgresql://u:p@[::1]:5432/name",
        "postgresql://u:p@/name?host=/var/run/postgresql",
        "postgresql://u:p@db/name?sslmode=verify-full&sslrootcert=system&application_name=a@b",
    ],
)
def test_of_postgres(url: str) -> None:
    assert sa.make_url(postgres_url(url)).database == "name"


def test_of_postgres_with_a_ca(tmp_path: Path) -> None:
    ca = tmp_path / "ca.pem"
    ca.touch()
    assert postgres_url(f"postgresql://db/name?sslmode=verify-full&sslrootcert={ca}").endswith(str(ca))


def test_of_redis(tmp_path: Path) -> None:
    assert RedisUrl.parse("redis://cache") == RedisUrl((("cache", 6379),), 0)
    assert RedisUrl.parse("redis://me:a%2Fb@[::1]:1/15") == RedisUrl((("::1", 1),), 15, username="me", password="a/b")
    ca = tmp_path / "ca.pem"
    ca.touch()
    assert RedisUrl.parse(f"rediss://:p@cache/0?ssl_ca_certs={ca}&ssl_check_hostname=false") == RedisUrl(
        (("cache", 6379),),
        0,
        password="p",
        is_tls=True,
        tls={"ssl_ca_certs": str(ca), "ssl_check_hostname": False},
    )
    assert RedisUrl.parse("redis+sentinel://:p@one,two:26380/my-master/3?sentinel_password=s") == RedisUrl(
        (("one", 26379), ("two", 26380)), 3, "my-master", password="p", sentinel_password="s"
    )


@pytest.mark.parametrize(
    ("url", "broker"),
    [
        ("redis://cache", "redis://cache:6379/0"),
        ("rediss://me:a%2Fb@[::1]:1/15", "rediss://me:a%2Fb@[::1]:1/15"),
        ("rediss+sentinel://:p@one,two/my-master/3", "sentinel://:p@one:26379/3"),
    ],
)
def test_the_brokers_url(url: str, broker: str) -> None:
    assert RedisUrl.parse(url).broker_url == broker


def test_a_password_is_not_shown() -> None:
    shown = repr(RedisUrl.parse("redis+sentinel://u:secret@one/s?sentinel_password=secret"))
    assert "secret" not in shown
