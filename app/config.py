"""Settings of every process, read from the environment once and checked. Nothing else reads the environment.

A wrong or missing setting raises `ConfigError`, whose message names the variable.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Self, TypeVar

from app.store_urls import RedisUrl, postgres_url

N = TypeVar("N", int, float)
T = TypeVar("T")

DEMO_SERVER_KEY = "dev-server-key"
DEMO_ADMIN_KEY = "dev-admin-key"
MODES = ("local", "production")
# "forwarded" is the header of RFC 7239.
PROXY_HEADERS = ("x-forwarded-for", "forwarded")
LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")


class ConfigError(Exception):
    """A setting is missing or wrong; the message names its variable."""


@dataclass(frozen=True, slots=True)
class Config:
    mode: str
    database_url: str
    redis_url: str
    server_api_keys: tuple[str, ...]
    admin_api_keys: tuple[str, ...]
    # How long named keys still work while Postgres can't be asked whether they are in force.
    api_keys_offline_seconds: int
    # Proxies that are trusted to name the client, and the header in which they do.
    trusted_proxies: tuple[IPv4Network | IPv6Network, ...]
    proxy_header: str
    log_level: str
    # How long a call to a store may take before it counts as away.
    database_timeout_seconds: float
    redis_timeout_seconds: float
    # How long a repeated key is answered from Redis; after that from Postgres.
    idempotency_cache_seconds: int
    hold_seconds_default: int
    settle_batch_size: int
    sweep_seconds: float
    retry_attempts_max: int
    retry_base_seconds: int
    retry_cap_seconds: int
    reconcile_seconds: float
    # Threads that answer requests; the server is started with as many.
    web_threads: int
    # A port for metrics besides the API's own. 0: none.
    metrics_address: str
    metrics_port: int
    metrics_are_public: bool
    metrics_dir: str
    data_dir: Path
    # Who may open flower: each as user:password, or a pattern of e-mail addresses that may sign in through a provider.
    flower_basic_auth: tuple[str, ...]
    flower_auth: str
    # Where traces are sent. Empty: tracing is off.
    otlp_endpoint: str
    # Whether webhooks may go over http, and to addresses that aren't public.
    webhooks_allow_private: bool
    webhook_timeout_seconds: float
    # How many deliveries to one endpoint may be in flight.
    webhook_endpoint_concurrency: int
    webhook_disable_after_days: float
    webhook_retention_days: float

    @property
    def redis(self) -> RedisUrl:
        return RedisUrl.parse(self.redis_url)

    @property
    def metrics_folder(self) -> Path:
        """The folder in which the processes of this installation on this machine share their numbers."""
        if self.metrics_dir:
            return Path(self.metrics_dir)
        installation = hashlib.sha256(self.database_url.encode()).hexdigest()[:16]
        return Path(tempfile.gettempdir(), f"tokentill-{os.geteuid()}-{installation}")

    @property
    def is_local(self) -> bool:
        return self.mode == "local"

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> Self:
        """Read the environment, or a mapping instead. Raises ConfigError."""
        env = _with_local_stack(os.environ if environment is None else environment)
        mode = _choice(env, "TOKENTILL_MODE", "production", MODES)
        return cls(
            mode=mode,
            database_url=_database_url(env),
            redis_url=_redis_url(env),
            server_api_keys=_api_keys(env, "SERVER_API_KEY", mode),
            admin_api_keys=_api_keys(env, "ADMIN_API_KEY", mode),
            api_keys_offline_seconds=_number(env, "API_KEYS_OFFLINE_SECONDS", 86_400, 60, 604_800),
            trusted_proxies=_networks(env, "TRUSTED_PROXIES"),
            proxy_header=_choice(env, "PROXY_HEADER", "x-forwarded-for", PROXY_HEADERS),
            log_level=_choice(env, "LOG_LEVEL", "INFO", LOG_LEVELS),
            database_timeout_seconds=_number(env, "DATABASE_TIMEOUT_SECONDS", 5.0, 0.1, 60),
            redis_timeout_seconds=_number(env, "REDIS_TIMEOUT_SECONDS", 1.0, 0.01, 60),
            idempotency_cache_seconds=_number(env, "IDEMPOTENCY_CACHE_SECONDS", 600, 60, 86_400),
            hold_seconds_default=_number(env, "HOLD_SECONDS_DEFAULT", 900, 1, 86_400),
            settle_batch_size=_number(env, "SETTLE_BATCH_SIZE", 1_000, 1, 1_000),
            sweep_seconds=_number(env, "SWEEP_SECONDS", 1.0, 0.1, 3_600),
            retry_attempts_max=_number(env, "RETRY_ATTEMPTS_MAX", 12, 1, 1_000),
            retry_base_seconds=_number(env, "RETRY_BASE_SECONDS", 5, 1, 3_600),
            retry_cap_seconds=_number(env, "RETRY_CAP_SECONDS", 3_600, 1, 604_800),
            reconcile_seconds=_number(env, "RECONCILE_SECONDS", 600.0, 1, 604_800),
            web_threads=_number(env, "WEB_THREADS", 64, 1, 10_000),
            metrics_address=env.get("METRICS_ADDRESS") or "127.0.0.1",
            metrics_port=_number(env, "METRICS_PORT", 0, 0, 65_535),
            metrics_are_public=_choice(env, "METRICS_PUBLIC", "0", ("0", "1")) == "1",
            metrics_dir=_metrics_dir(env),
            data_dir=_data_dir(env),
            flower_basic_auth=tuple(filter(None, env.get("FLOWER_BASIC_AUTH", "").split(","))),
            flower_auth=env.get("FLOWER_AUTH", ""),
            otlp_endpoint=_otlp_endpoint(env),
            webhooks_allow_private=_flag(env, "WEBHOOKS_ALLOW_PRIVATE", mode == "local"),
            webhook_timeout_seconds=_number(env, "WEBHOOK_TIMEOUT_SECONDS", 15.0, 0.1, 120),
            webhook_endpoint_concurrency=_number(env, "WEBHOOK_ENDPOINT_CONCURRENCY", 4, 1, 100),
            webhook_disable_after_days=_number(env, "WEBHOOK_DISABLE_AFTER_DAYS", 5.0, 0, 365),
            webhook_retention_days=_number(env, "WEBHOOK_RETENTION_DAYS", 30.0, 0, 3_650),
        )


def _with_local_stack(env: Mapping[str, str]) -> Mapping[str, str]:
    """Without DATABASE_URL, the settings of the stack that `make up` runs on this machine, if it runs."""
    if env.get("DATABASE_URL"):
        return env
    handover = _data_dir(env) / "stack.env"
    try:
        lines = handover.read_text().splitlines()
    except OSError:
        return env
    # An empty variable counts as not set.
    given = {name: value for name, value in env.items() if value}
    return {**dict(line.split("=", 1) for line in lines if "=" in line), **given}


def _data_dir(env: Mapping[str, str]) -> Path:
    return Path(env.get("DATA_DIR") or ".data")


def _required(env: Mapping[str, str], name: str) -> str:
    value = env.get(name, "").strip()
    if not value:
        raise ConfigError(f"{name} is not set. (`make up` sets everything for a local stack.)")
    return value


def _choice(env: Mapping[str, str], name: str, default: str, choices: tuple[str, ...]) -> str:
    value = env.get(name) or default
    if value not in choices:
        raise ConfigError(f"{name} must be one of {', '.join(choices)}, not {value!r}.")
    return value


def _flag(env: Mapping[str, str], name: str, default: bool) -> bool:
    value = env.get(name)
    if not value:
        return default
    if value not in {"0", "1"}:
        raise ConfigError(f"{name} must be 0 or 1, not {value!r}.")
    return value == "1"


def _number(env: Mapping[str, str], name: str, default: N, least: N, most: N) -> N:
    text = env.get(name)
    if not text:
        return default
    kind: Callable[[str], N] = type(default)
    try:
        value = kind(text)
    except ValueError:
        raise ConfigError(f"{name} must be a number, not {text!r}.") from None
    if not least <= value <= most:
        raise ConfigError(f"{name} must be from {least} to {most}, not {text}.")
    return value


def _checked(name: str, check: Callable[[str], T], value: str) -> T:
    try:
        return check(value)
    except ValueError as error:
        # Neither the value nor the causing error goes into the message: they may contain a password.
        raise ConfigError(f"{name} {error}.") from None


def _metrics_dir(env: Mapping[str, str]) -> str:
    data_dir = env.get("DATA_DIR")
    return env.get("METRICS_DIR") or (str(Path(data_dir, "metrics")) if data_dir else "")


def _otlp_endpoint(env: Mapping[str, str]) -> str:
    endpoint = env.get("OTEL_EXPORTER_OTLP_ENDPOINT") or ""
    if endpoint and not endpoint.startswith(("http://", "https://")):
        raise ConfigError("OTEL_EXPORTER_OTLP_ENDPOINT must be the URL of a collector that takes OTLP over HTTP.")
    if endpoint and importlib.util.find_spec("opentelemetry") is None:
        raise ConfigError(
            "OTEL_EXPORTER_OTLP_ENDPOINT needs OpenTelemetry, which isn't installed: requirements/tracing.lock has it."
        )
    return endpoint


def _database_url(env: Mapping[str, str]) -> str:
    return _checked("DATABASE_URL", postgres_url, _required(env, "DATABASE_URL"))


def _redis_url(env: Mapping[str, str]) -> str:
    value = _required(env, "REDIS_URL")
    _checked("REDIS_URL", RedisUrl.parse, value)
    return value


def _networks(env: Mapping[str, str], name: str) -> tuple[IPv4Network | IPv6Network, ...]:
    """Addresses and networks from a comma-separated list."""
    found = []
    for part in env.get(name, "").split(","):
        if text := part.strip():
            try:
                found.append(ip_network(text))
            except ValueError:
                raise ConfigError(
                    f"{name} must be addresses or networks such as 10.0.0.0/8, separated by commas, not {text!r}."
                ) from None
    return tuple(found)


def _api_keys(env: Mapping[str, str], name: str, mode: str) -> tuple[str, ...]:
    keys = tuple(key for key in (part.strip() for part in _required(env, name).split(",")) if key)
    if not keys:
        raise ConfigError(f"{name} holds no key.")
    if mode != "local":
        if {DEMO_SERVER_KEY, DEMO_ADMIN_KEY} & set(keys):
            raise ConfigError(f"{name} is a demo key, which only TOKENTILL_MODE=local accepts. Set one of your own.")
        if any(len(key) < 16 for key in keys):
            raise ConfigError(f"{name} must have at least 16 characters.")
    return keys
