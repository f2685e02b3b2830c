"""The README's Deploy section as it is written: the image's files, the runtime lock, every process, an end settled."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from stack.embedded import PostgresServer, ValkeyServer
from stack.health import CHECKS
from stack.procfile import ROOT, commands
from tests.processes import Running, free_port, wait_until

pytestmark = pytest.mark.long

SERVER_KEY = "a-service-servers-key"
ADMIN_KEY = "an-administrators-key"
PATH = os.environ["PATH"]
STORES = ("DATABASE", "REDIS")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the image holds: the files that `.dockerignore` lets in, and a virtual environment of the runtime lock."""
    folder = tmp_path_factory.mktemp("deployed")
    for line in (ROOT / ".dockerignore").read_text().split():
        if line.startswith("!"):
            source, target = ROOT / line[1:], folder / line[1:]
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, target)
    # Without a pip of its own, and compiling only what is imported: half the time.
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", ".venv"], cwd=folder, check=True)
    install = ["-m", "pip", "--python", ".venv/bin/python", "install", "--quiet", "--disable-pip-version-check"]
    install += ["--no-compile", "--require-hashes", "--only-binary", ":all:", "-r", "requirements/runtime.lock"]
    subprocess.run([sys.executable, *install], cwd=folder, check=True)
    return folder


@pytest.fixture(scope="module")
def settings(postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """An administrator's, for servers with nothing in them."""
    with ValkeyServer(tmp_path_factory.mktemp("redis")) as redis:
        yield {
            "DATABASE_URL": postgres_server.create_database("deployed"),
            "REDIS_URL": redis.url,
            "SERVER_API_KEY": SERVER_KEY,
            "ADMIN_API_KEY": ADMIN_KEY,
            "PORT": str(free_port()),
            "FLOWER_PORT": str(free_port()),
            "FLOWER_BASIC_AUTH": "operator:a-password",
            "DATA_DIR": str(tmp_path_factory.mktemp("data")),
            "WEB_WORKERS": "1",
            "WEB_THREADS": "8",
            "WORKER_CONCURRENCY": "1",
        }


def in_project(project: Path, settings: dict[str, str], command: str) -> str:
    """What a command prints in the project's folder, with the virtual environment activated."""
    done = subprocess.run(
        ["/bin/sh", "-c", f". .venv/bin/activate && {command}"],
        cwd=project,
        env={"PATH": PATH, **settings},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@contextlib.contextmanager
def process(project: Path, settings: dict[str, str], command: str, log: Path) -> Iterator[Running]:
    # As a service file would: the environment's own Python, and nothing activated.
    words = shlex.split(command)
    assert words[0] == "python"
    with log.open("wb") as output:
        started = subprocess.Popen(
            [project / ".venv/bin/python", *words[1:]],
            cwd=project,
            env={"PATH": PATH, **settings},
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    running = Running(started, log)
    try:
        yield running
    finally:
        running.stop()
        running.kill()


def table() -> dict[str, str]:
    """Process -> command, as the README says."""
    rows = re.findall(r"^\| (\w+) \| `(python -m stack run \w+)` \|", (ROOT / "README.md").read_text(), re.MULTILINE)
    return dict(rows)


def test_the_readme_has_every_process() -> None:
    assert {name: f"python -m stack run {name}" for name in commands()} == table()


def test_an_end_is_settled_by_what_the_readme_starts(project: Path, settings: dict[str, str], tmp_path: Path) -> None:
    told = table()
    in_project(project, settings, told.pop("release"))
    for command in (
        "features create chat --name Chat",
        "packages create basic --name Basic --feature chat",
        "wallets create alice --package basic",
        "wallets top-up alice --token 100 --reference invoice-1",
    ):
        in_project(project, settings, f"flask {command}")
    with contextlib.ExitStack() as started:
        running = {
            name: started.enter_context(process(project, settings, command, tmp_path / f"{name}.log"))
            for name, command in told.items()
        }
        api, flower = f"http://127.0.0.1:{settings['PORT']}", f"http://127.0.0.1:{settings['FLOWER_PORT']}"
        wait_until(lambda: answers(f"{api}/readyz"), what="the API", log=running["web"].log)
        ended = httpx.post(
            f"{api}/api/token-process/end",
            headers={"x-server-api-key": SERVER_KEY},
            json={"user_id": "alice", "feature_endpoint_id": "chat", "input_token": 1, "output_token": 40},
        )
        assert ended.json()["data"] == {"user_id": "alice", "token": 90, "cost": 10, "status": "return-able"}

        def posted_token() -> object:
            return json.loads(in_project(project, settings, "flask wallets show alice --json"))["posted_token"]

        wait_until(lambda: posted_token() == 90, what="the settlement", log=running["worker"].log)
        wait_until(lambda: answers(f"{flower}/healthcheck"), what="flower", log=running["flower"].log)
        for name in CHECKS:
            wait_until(lambda name=name: is_well(project, settings, name), what=f"the health of {name}")
        assert_no_command_line_tells_secrets(settings, running.values())
        for name, one in running.items():
            assert one.process.poll() is None, f"{name}: {one.log.read_text()}"


def is_well(project: Path, settings: dict[str, str], name: str) -> bool:
    """As docker-compose.yml asks."""
    words = [".venv/bin/python", "-m", "stack", "health", name]
    return subprocess.run(words, cwd=project, env=settings, capture_output=True, check=False).returncode == 0


def assert_no_command_line_tells_secrets(settings: dict[str, str], started: Iterable[Running]) -> None:
    """Of the processes that were started, and of their children."""
    secrets = [SERVER_KEY, ADMIN_KEY, "a-password", *(urlsplit(settings[f"{name}_URL"]).password for name in STORES)]
    assert all(secrets)
    sessions = {running.process.pid for running in started}
    seen = 0
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if os.getsid(int(path.parent.name)) in sessions:
                words = path.read_bytes().decode(errors="replace")
                assert not [secret for secret in secrets if str(secret) in words], words
                seen += 1
    assert seen > len(sessions)


def answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=2).status_code == 200
    except httpx.TransportError:
        return False
