from __future__ import annotations

from pathlib import Path

import pytest

from app.config import Config, ConfigError

GOOD = {
    "DATABASE_URL": "postgres://u:p@db/tokens",
    "REDIS_URL": "redis://cache/0",
    "SERVER_API_KEY": "a-server-key-of-some-length",
    "ADMIN_API_KEY": "an-admin-key-of-some-length",
}


def test_a_production_process() -> None:
    config = Config.from_environment(GOOD)
    assert config.mode == "production"
    assert config.database_url == "postgresql+psycopg://u:p@db/tokens"
    assert config.server_api_keys == ("a-server-key-of-some-length",)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DATABASE_URL", "mysql://db"),
        ("REDIS_URL", ""),
        ("REDIS_URL", "cache:6379"),
        ("SERVER_API_KEY", ""),
        ("SERVER_API_KEY", " , "),
        ("SERVER_API_KEY", "dev-server-key"),
        ("SERVER_API_KEY", "short"),
        ("ADMIN_API_KEY", "a-fine-long-admin-key,dev-admin-key"),
        ("TOKENTILL_MODE", "staging"),
        ("LOG_LEVEL", "loud"),
        ("DATABASE_TIMEOUT_SECONDS", "soon"),
        ("REDIS_TIMEOUT_SECONDS", "0"),
        ("REDIS_TIMEOUT_SECONDS", "61"),
        ("SETTLE_BATCH_SIZE", "1001"),
        ("SWEEP_SECONDS", "nan"),
    ],
)
def test_the_error_names_the_variable(name: str, value: str) -> None:
    with pytest.raises(ConfigError, match=f"^{name} "):
        Config.from_environment({**GOOD, name: value})


def test_timeouts_are_seconds_with_decimals() -> None:
    config = Config.from_environment({**GOOD, "DATABASE_TIMEOUT_SECONDS": "2.5", "REDIS_TIMEOUT_SECONDS": "0.05"})
    assert (config.database_timeout_seconds, config.redis_timeout_seconds) == (2.5, 0.05)


def test_a_missing_database_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^DATABASE_URL is not set"):
        Config.from_environment({"DATA_DIR": str(tmp_path)})


def test_a_password_never_shows_in_an_error() -> None:
    with pytest.raises(ConfigError) as caught:
        Config.from_environment({**GOOD, "DATABASE_URL": "mysql://u:secret@db/tokens"})
    assert "secret" not in str(caught.value)


def test_demo_keys_are_for_local_mode() -> None:
    local = {**GOOD, "TOKENTILL_MODE": "local", "SERVER_API_KEY": "dev-server-key"}
    assert Config.from_environment(local).server_api_keys == ("dev-server-key",)


def test_several_keys_for_rotation() -> None:
    keys = "the-old-server-key-1, the-new-server-key-2"
    config = Config.from_environment({**GOOD, "SERVER_API_KEY": keys})
    assert config.server_api_keys == ("the-old-server-key-1", "the-new-server-key-2")


def test_the_local_stacks_settings_are_found(tmp_path: Path) -> None:
    lines = [f"{name}={value}" for name, value in {**GOOD, "TOKENTILL_MODE": "local"}.items()]
    (tmp_path / "stack.env").write_text("\n".join(lines))
    config = Config.from_environment({"DATA_DIR": str(tmp_path), "LOG_LEVEL": "ERROR"})
    assert config.is_local
    assert config.log_level == "ERROR"
    assert config.redis_url == "redis://cache/0"


def test_where_a_machines_processes_add_up() -> None:
    by_default = Config.from_environment(GOOD).metrics_folder
    assert by_default == Config.from_environment(GOOD).metrics_folder
    assert by_default != Config.from_environment({**GOOD, "DATABASE_URL": "postgres://u:p@db/other"}).metrics_folder
    assert "p@db" not in str(by_default)
    assert Config.from_environment({**GOOD, "DATA_DIR": "/data"}).metrics_folder == Path("/data/metrics")
    own = {**GOOD, "DATA_DIR": "/data", "METRICS_DIR": "/run/numbers"}
    assert Config.from_environment(own).metrics_folder == Path("/run/numbers")
