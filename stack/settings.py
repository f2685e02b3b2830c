"""What `make up` reads from the environment, with the defaults of a local stack."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from app.store_urls import RedisUrl, postgres_url
from stack.processes import LaunchError

DEMO_SERVER_KEY = "dev-server-key"
DEMO_ADMIN_KEY = "dev-admin-key"

# Small enough for a laptop with other work, and quiet enough to read the rest (LOG_LEVEL=INFO shows more).
LOCAL_DEFAULTS = {
    "WEB_WORKERS": "1",
    "WEB_THREADS": "32",
    "WORKER_CONCURRENCY": "2",
    "LOG_LEVEL": "WARNING",
    # Celery's warning about running as root is meant for production; here it would be the first line that a newcomer
    # reads.
    "PYTHONWARNINGS": "ignore:You're running the worker with superuser privileges",
}


@dataclass(frozen=True)
class Settings:
    mode: str
    host: str
    port: int
    flower_port: int
    data_dir: Path
    database_url: str | None  # None: an embedded server
    redis_url: str | None
    server_api_key: str
    admin_api_key: str

    @classmethod
    def from_environment(cls, env: Mapping[str, str] | None = None) -> Self:
        env = os.environ if env is None else env
        mode = env.get("TOKENTILL_MODE") or "local"
        is_local = mode == "local"
        settings = cls(
            mode=mode,
            host=env.get("HOST") or "127.0.0.1",
            port=_port(env, "PORT", 5000),
            flower_port=_port(env, "FLOWER_PORT", 5555),
            data_dir=Path(env.get("DATA_DIR") or ".data").resolve(),
            database_url=env.get("DATABASE_URL") or None,
            redis_url=env.get("REDIS_URL") or None,
            # Outside local mode the server refuses the demo keys, and says which variable to set.
            server_api_key=env.get("SERVER_API_KEY") or (DEMO_SERVER_KEY if is_local else ""),
            admin_api_key=env.get("ADMIN_API_KEY") or (DEMO_ADMIN_KEY if is_local else ""),
        )
        for name, check, value in (
            ("DATABASE_URL", postgres_url, settings.database_url),
            ("REDIS_URL", RedisUrl.parse, settings.redis_url),
        ):
            try:
                if value is not None:
                    check(value)
            except ValueError as error:
                raise LaunchError(f"{name} {error}") from None
        if settings.port == settings.flower_port:
            raise LaunchError(f"PORT and FLOWER_PORT are both {settings.port}; they must differ")
        return settings

    @property
    def is_local(self) -> bool:
        return self.mode == "local"

    @property
    def base_url(self) -> str:
        host = "127.0.0.1" if self.host in {"0.0.0.0", "::", ""} else self.host  # noqa: S104 - compared, not bound
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}"


def _port(env: Mapping[str, str], name: str, default: int) -> int:
    text = env.get(name) or str(default)
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= 65_535):
        raise LaunchError(f"{name} must be a port number from 1 to 65535, not {text!r}")
    return int(text)
