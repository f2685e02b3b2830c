"""The URLs of the stores: checking and parsing them.

Every fault is a ValueError in one line that never repeats a part of the URL: where a password has an unescaped `@` or
`/`, any part may belong to it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlsplit

from psycopg.pq import Conninfo

ESCAPES = "in a password, / ? # and @ are written %2F %3F %23 and %40"
REDIS_PORT = 6379
SENTINEL_PORT = 26379
SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
_FILES_OF_POSTGRES = ("sslrootcert", "sslcert", "sslkey", "sslcrl", "passfile")
# Parameters that we set ourselves, or that would override other parts of the URL.
_TAKEN = ("host", "hostaddr", "port", "dbname", "user", "password", "options", "service", "connect_timeout")
_TLS_FILES = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
_REDIS_PARAMETERS = (*_TLS_FILES, "ssl_check_hostname", "sentinel_username", "sentinel_password")


def postgres_url(text: str) -> str:
    """The URL for SQLAlchemy. Raises ValueError."""
    url = _split(text, ("postgres", "postgresql", "postgresql+psycopg"))
    parameters = _parameters(url)
    # A Unix socket's folder isn't a host name and is given as the parameter `host`.
    socket = parameters.pop("host", None)
    if (socket is None) == (not url.netloc.rpartition("@")[2]):
        raise ValueError("must name one host")
    if socket is None:
        _host(url.netloc.rpartition("@")[2], 5432)
    elif not unquote(socket).startswith("/") or "," in socket:
        raise ValueError("must name its host in front of the path; only the folder of a Unix socket goes behind the ?")
    if not re.fullmatch(r"/[^/]+", url.path):
        raise ValueError("must name one database behind the host, as in postgresql://user:password@host:5432/name")
    known = {option.keyword.decode() for option in Conninfo.get_defaults()} - set(_TAKEN)
    _check_names(parameters, known)
    if parameters.get("sslmode", "prefer") not in SSL_MODES:
        raise ValueError(f"has an sslmode that is none of {', '.join(SSL_MODES)}")
    _check_files({name: path for name, path in parameters.items() if path != "system"}, _FILES_OF_POSTGRES)
    return "postgresql+psycopg://" + text.split("://", 1)[1]


@dataclass(frozen=True, slots=True)
class RedisUrl:
    """One Redis, or the Sentinels that know the current master of a service."""

    hosts: tuple[tuple[str, int], ...]
    database: int
    service: str | None = None
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    is_tls: bool = False
    # Arguments for redis-py that differ from its defaults.
    tls: dict[str, Any] = field(default_factory=dict)
    sentinel_username: str | None = None
    sentinel_password: str | None = field(default=None, repr=False)

    @classmethod
    def parse(cls, text: str) -> RedisUrl:
        """Raises ValueError."""
        url = _split(text, ("redis", "rediss", "redis+sentinel", "rediss+sentinel"))
        is_sentinel = url.scheme.endswith("+sentinel")
        is_tls = url.scheme.startswith("rediss")
        user_info, _, hosts = url.netloc.rpartition("@")
        username, _, password = user_info.partition(":")
        parameters = _parameters(url)
        _check_names(parameters, set(_REDIS_PARAMETERS if is_sentinel else _REDIS_PARAMETERS[:-2]))
        if not is_tls and any(name.startswith("ssl_") for name in parameters):
            raise ValueError("has ssl_ parameters, which go with rediss:// (TLS) only")
        _check_files(parameters, _TLS_FILES)
        if not is_sentinel and "," in hosts:
            raise ValueError("must name one host; several Sentinels are named by redis+sentinel://")
        path = url.path.removeprefix("/")
        service = None
        if is_sentinel:
            service, _, path = path.partition("/")
            if not service:
                raise ValueError("must name a service, as in redis+sentinel://host:26379,host:26379/service/0")
        if not re.fullmatch(r"[0-9]{0,5}", path):
            raise ValueError("must name a database by its number, such as 0, behind the last /")
        port = SENTINEL_PORT if is_sentinel else REDIS_PORT
        return cls(
            hosts=tuple(_host(host, port) for host in hosts.split(",")),
            database=int(path or 0),
            service=None if service is None else unquote(service),
            username=unquote(username) or None,
            password=unquote(password) or None,
            is_tls=is_tls,
            tls=_tls(parameters),
            sentinel_username=parameters.get("sentinel_username"),
            sentinel_password=parameters.get("sentinel_password"),
        )

    @property
    def broker_url(self) -> str:
        """The URL for Celery: one host and no parameters. `app.stores.broker` passes the rest separately."""
        host, port = self.hosts[0]
        scheme = "sentinel" if self.service else "rediss" if self.is_tls else "redis"
        user_info = "" if self.password is None else f"{quote(self.username or '', '')}:{quote(self.password, '')}@"
        return f"{scheme}://{user_info}{f'[{host}]' if ':' in host else host}:{port}/{self.database}"


def _split(text: str, schemes: tuple[str, ...]) -> SplitResult:
    if re.search(r"[\x00-\x20\x7f]", text):
        raise ValueError("must not hold spaces or control characters")
    try:
        url = urlsplit(text)
    except ValueError:
        raise ValueError(f"is not a URL ({ESCAPES})") from None
    if url.scheme not in schemes or not text.startswith(f"{url.scheme}://"):
        raise ValueError(f"must start with {' or '.join(f'{scheme}://' for scheme in schemes)}")
    if url.fragment or "#" in text or url.netloc.count("@") > 1 or "@" in url.path:
        raise ValueError(f"is ambiguous ({ESCAPES})")
    if re.search(r"%(?![0-9A-Fa-f]{2})", text):
        raise ValueError("has a % that escapes nothing; by itself it is written %25")
    return url


def _host(text: str, default_port: int) -> tuple[str, int]:
    if "," in text:
        raise ValueError("must name one host")
    found = re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[^\[\]:/?#@]+)(?::([0-9]*))?", text)
    if found is None:
        raise ValueError(f"must name a host, and behind a : the number of its port ({ESCAPES})")
    port = int(found[2] or default_port)
    if not 1 <= port <= 65_535:
        raise ValueError("must have a port from 1 to 65535")
    return unquote(found[1]).strip("[]"), port


def _parameters(url: SplitResult) -> dict[str, str]:
    try:
        pairs = parse_qsl(url.query, keep_blank_values=True, strict_parsing=True) if url.query else []
    except ValueError:
        raise ValueError("has parameters behind its ? that can't be read") from None
    if len(dict(pairs)) != len(pairs):
        raise ValueError("has a parameter twice")
    return dict(pairs)


def _check_names(parameters: dict[str, str], known: set[str]) -> None:
    if not parameters.keys() <= known:
        # The parameter isn't named: after an unescaped ? it may be the rest of a password.
        raise ValueError(f"has an unknown parameter behind its ? ({ESCAPES})")


def _check_files(parameters: dict[str, str], names: tuple[str, ...]) -> None:
    for name in names:
        if name in parameters and not Path(parameters[name]).is_file():
            raise ValueError(f"names a file as {name} that isn't there")


def _tls(parameters: dict[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = {name: parameters[name] for name in _TLS_FILES if name in parameters}
    if "ssl_check_hostname" in parameters:
        if parameters["ssl_check_hostname"] not in {"true", "false"}:
            raise ValueError("must have ssl_check_hostname true or false")
        found["ssl_check_hostname"] = parameters["ssl_check_hostname"] == "true"
    return found
