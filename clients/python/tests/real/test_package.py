"""The package as published: built, installed into an empty environment, used against the real server."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from tests.real.bank import Bank
from tests.real.server import Server

PROJECT = Path(__file__).resolve().parents[2]

SMOKE = """
import sys
import tokentill

assert "site-packages" in tokentill.__file__, tokentill.__file__
assert "app" not in sys.modules and "flask" not in sys.modules

@tokentill.with_token_process(feature_endpoint_id=sys.argv[2], user_id=sys.argv[1])
def work():
    return {"input_token": 1, "output_token": 40}

work()
"""
TYPED = """
from tokentill import TokenProcess, with_token_process

@with_token_process(feature_endpoint_id="f", user_id="u")
def work(number: int) -> str:
    return str(number)

reveal_type(work(1))
reveal_type(TokenProcess().end("u", "f", 1, 2).cost)
work("no number")
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(PROJECT))
    return folder


@pytest.mark.parametrize("kind", ["*.whl", "*.tar.gz"])
def test_it_installs_into_an_empty_environment_and_bills(
    kind: str, built: Path, tmp_path: Path, server: Server, bank: Bank, user: str, feature: str
) -> None:
    [package] = built.glob(kind)
    venv.create(tmp_path / "venv", with_pip=True)
    python = str(tmp_path / "venv" / "bin" / "python")
    run(python, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", str(package))
    env = {
        "TOKEN_SERVER_URL": server.url,
        "SERVER_API_KEY": server.server_key,
        "TOKENTILL_OUTBOX": str(tmp_path / "outbox.db"),
    }
    run(python, "-c", SMOKE, user, feature, cwd=tmp_path, **env)
    assert bank.settled(user) == 989
    command = str(tmp_path / "venv" / "bin" / "tokentill")
    assert "pending   0" in run(command, "outbox", "status", cwd=tmp_path, **env)
    assert run(command, "--version").startswith("tokentill 0.")


def test_its_types_reach_those_who_use_it(tmp_path: Path) -> None:
    (tmp_path / "user.py").write_text(TYPED)
    checked = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "user.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert 'Revealed type is "str"' in checked.stdout
    assert 'Revealed type is "int | decimal.Decimal"' in checked.stdout
    assert 'Argument 1 to "work" has incompatible type "str"; expected "int"' in checked.stdout
    assert "Found 1 error" in checked.stdout, checked.stdout


def run(*command: str, cwd: Path | None = None, **env: str) -> str:
    plain = {
        name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "TOKENTILL_OUTBOX"}
    }
    done = subprocess.run(command, cwd=cwd, env={**plain, **env}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
