"""`make up` as a person meets it: the real command, started and stopped."""

import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import pytest

from stack.embedded import PostgresServer, ValkeyServer
from stack.processes import FolderLock, free_port, until
from stack.procfile import ROOT

READY_SECONDS = 90.0
GONE_SECONDS = 15.0
PS = shutil.which("ps") or "/bin/ps"


class Up:
    """One `python -m stack up`, its output read as it comes."""

    def __init__(self, data_dir: Path, **variables: str) -> None:
        self.data_dir = data_dir
        self.port = free_port()
        self.flower_port = free_port()
        own = {"DATA_DIR": str(data_dir), "PORT": str(self.port), "FLOWER_PORT": str(self.flower_port)}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "stack", "up"],
            cwd=ROOT,
            env=bare_environment() | own | variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(GONE_SECONDS)
            except subprocess.TimeoutExpired:
                self.process.kill()
        self.process.wait()
        self._reader.join()
        assert self.process.stdout is not None
        self.process.stdout.close()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))

    @property
    def output(self) -> str:
        return "\n".join(self.lines)

    def await_line(self, start: str, timeout_seconds: float = READY_SECONDS) -> str:
        def seen() -> bool:
            return any(line.startswith(start) for line in self.lines) or self.process.poll() is not None

        until(seen, timeout_seconds)
        found = [line for line in self.lines if line.startswith(start)]
        assert found, f"no line starts with {start!r}:\n{self.output}"
        return found[0]

    def await_end(self) -> int:
        status = self.process.wait(GONE_SECONDS)
        self._reader.join()
        return status

    def printed_calls(self) -> list[str]:
        """Start, end, wallet."""
        self.await_line("Ctrl-C stops everything.")
        return [line.strip() for line in self.lines if line.strip().startswith("curl ")]

    def descendants(self) -> dict[int, str]:
        return descendants(self.process.pid)


def bare_environment() -> dict[str, str]:
    """What a new terminal would have, whatever the tests were started with."""
    own = ("DATABASE_URL", "REDIS_URL", "SERVER_API_KEY", "ADMIN_API_KEY", "TOKENTILL_MODE", "HOST")
    return {name: value for name, value in os.environ.items() if name not in own}


def descendants(root: int) -> dict[int, str]:
    listing = subprocess.run(
        [PS, "-axww", "-o", "pid=,ppid=,stat=,command="], capture_output=True, text=True, check=True
    )
    children: dict[int, list[tuple[int, str]]] = {}
    for line in listing.stdout.splitlines():
        number, parent, state, words = line.split(maxsplit=3)
        if not state.startswith("Z"):
            children.setdefault(int(parent), []).append((int(number), words))
    found: dict[int, str] = {}
    todo = [root]
    while todo:
        for pid, command in children.get(todo.pop(), []):
            found[pid] = command
            todo.append(pid)
    return found


def alive(pids: Mapping[int, str]) -> dict[int, str]:
    """Those that still run; a number that now belongs to another command doesn't count."""
    listing = subprocess.run([PS, "-axww", "-o", "pid=,stat=,command="], capture_output=True, text=True, check=True)
    rows = [line.split(maxsplit=2) for line in listing.stdout.splitlines()]
    return {int(row[0]): row[2] for row in rows if pids.get(int(row[0])) == row[2] and row[1][0] != "Z"}


def call(printed: str) -> dict[str, Any]:
    """Does what the printed curl call does."""
    words = shlex.split(printed)
    assert words[:2] == ["curl", "-s"]
    assert words[2].startswith("http://127.0.0.1:")
    headers = [words[i + 1].split(": ", 1) for i, word in enumerate(words) if word == "-H"]
    body = [words[i + 1].encode() for i, word in enumerate(words) if word == "-d"]
    request = urllib.request.Request(words[2], data=body[0] if body else None, headers=dict(headers))  # noqa: S310 - see above
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=10) as answer:
        data: dict[str, Any] = json.load(answer)["data"]
        return data


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def busy_port() -> Iterator[int]:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield server.getsockname()[1]


class TestRefuses:
    @pytest.mark.parametrize("variable", ["PORT", "FLOWER_PORT"])
    def test_a_port_in_use(self, data_dir: Path, busy_port: int, variable: str) -> None:
        with Up(data_dir, **{variable: str(busy_port)}) as up:
            assert up.await_end() == 1
            assert f"port {busy_port} on 127.0.0.1 is already in use" in up.output
            assert f"make up {variable}={busy_port + 1}" in up.output
        assert [path.name for path in data_dir.iterdir()] == ["lock"]  # nothing was started

    def test_a_data_folder_in_use(self, data_dir: Path) -> None:
        data_dir.mkdir()
        lock = FolderLock(data_dir / "lock")
        lock.acquire("")
        with Up(data_dir) as up:
            assert up.await_end() == 1
            assert f"already running on {data_dir}" in up.output
            assert f"(process {os.getpid()})" in up.output
        lock.release()

    @pytest.mark.parametrize("value", ["0", "65536", "http", "-1", "5000.0", "٣"])
    def test_what_is_no_port(self, data_dir: Path, value: str) -> None:
        with Up(data_dir, PORT=value) as up:
            assert up.await_end() == 1
            assert up.output.startswith("tokentill: PORT must be a port number from 1 to 65535, not ")

    def test_one_port_for_two(self, data_dir: Path) -> None:
        with Up(data_dir, PORT="5005", FLOWER_PORT="5005") as up:
            assert up.await_end() == 1
            assert "PORT and FLOWER_PORT are both 5005" in up.output

    def test_a_data_folder_that_cannot_be(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with Up(tmp_path / "file" / "data") as up:
            assert up.await_end() == 1
            assert "set DATA_DIR to a folder of your own" in up.output


class TestServersOfTheUser:
    @pytest.mark.parametrize(
        ("variable", "name", "url"),
        [
            ("DATABASE_URL", "Postgres", "postgresql://someone:secret-word@127.0.0.1:{port}/tokentill"),
            ("REDIS_URL", "Redis", "redis://:secret-word@127.0.0.1:{port}/0"),
        ],
    )
    def test_are_waited_for_without_telling_their_password(
        self, data_dir: Path, variable: str, name: str, url: str
    ) -> None:
        with Up(data_dir, **{variable: url.format(port=free_port())}) as up:
            up.await_line(f"waiting for {name} ({variable}): ")
            started = up.descendants()
            up.process.terminate()
            assert up.await_end() == 0
            assert "secret-word" not in up.output
            assert up.lines[-1] == "stopped"
            assert not (data_dir / name.lower()).exists()
        assert alive(started) == {}


def program(command: str) -> str:
    return Path(command.split(maxsplit=1)[0].rstrip(":")).name


@pytest.mark.long
@pytest.mark.e2e
class TestRuns:
    def test_on_servers_of_the_user_once_they_answer(self, data_dir: Path, tmp_path: Path) -> None:
        postgres = PostgresServer(tmp_path / "theirs" / "postgres", settings={"fsync": "off"})
        valkey = ValkeyServer(tmp_path / "theirs" / "redis")
        with postgres, valkey:
            valkey.stop()
            with Up(data_dir, DATABASE_URL=postgres.url, REDIS_URL=valkey.url) as up:
                up.await_line("waiting for Redis")
                valkey.start()
                up.await_line("ready ")
                assert call(up.printed_calls()[0])["token"] == 1000
                up.process.terminate()
                assert up.await_end() == 0
            assert not (data_dir / "postgres").exists()
            assert not (data_dir / "redis").exists()
            assert postgres.running
            assert valkey.running

    def test_the_printed_calls_bill_a_run_and_a_restart_remembers_it(self, data_dir: Path) -> None:
        with Up(data_dir) as up:
            assert up.await_line("ready ") == f"ready http://127.0.0.1:{up.port}"
            start, end, wallet = up.printed_calls()
            answer = call(start)
            assert (answer["token"], answer["status"]) == (1000, "access-able")
            answer = call(end)
            assert (answer["token"], answer["cost"], answer["status"]) == (989, 11, "return-able")
            assert until(lambda: call(wallet)["posted_token"] == 989, 2)

            started = up.descendants()
            assert {"postgres", "valkey-server"} <= {program(command) for command in started.values()}

            stopped_at = time.monotonic()
            up.process.send_signal(signal.SIGINT)
            assert up.await_end() == 0
            assert time.monotonic() - stopped_at < 10
            assert up.lines[-1] == "stopped"
            assert alive(started) == {}

        with Up(data_dir) as again:
            again.await_line("ready ")
            assert call(again.printed_calls()[2])["posted_token"] == 989

    def test_commands_in_a_second_terminal_find_it(self, data_dir: Path) -> None:
        with Up(data_dir) as up:
            up.await_line("ready ")
            handover = data_dir / "stack.env"
            assert handover.stat().st_mode & 0o777 == 0o600
            # A command that needs both stores, and changes nothing the second time.
            seed = subprocess.run(
                [Path(sys.executable).with_name("flask"), "demo", "seed"],
                cwd=ROOT,
                env=bare_environment() | {"DATA_DIR": str(data_dir)},
                capture_output=True,
                text=True,
                check=False,
            )
            assert seed.returncode == 0, seed.stderr
            with Up(data_dir) as second:
                assert second.await_end() == 1
                assert "already running" in second.output
            assert call(up.printed_calls()[2])["posted_token"] == 1000
            up.process.terminate()
            assert up.await_end() == 0
            assert not handover.exists()

    def test_a_process_that_dies_is_named_and_ends_the_rest(self, data_dir: Path) -> None:
        with Up(data_dir) as up:
            up.await_line("ready ")
            started = up.descendants()
            beat = [pid for pid, command in started.items() if f"{command} ".endswith(" beat ")]
            os.kill(beat[0], signal.SIGKILL)
            assert up.await_end() == 1
            assert "beat ended by itself (SIGKILL)" in up.output
        assert alive(started) == {}

    def test_nothing_outlives_a_killed_supervisor_and_the_next_one_works(self, data_dir: Path) -> None:
        with Up(data_dir) as up:
            up.await_line("ready ")
            started = up.descendants()
            up.process.kill()
            assert up.await_end() == -signal.SIGKILL
            assert until(lambda: alive(started) == {}, GONE_SECONDS), alive(started)
        with Up(data_dir) as again:
            again.await_line("ready ")
            assert call(again.printed_calls()[0])["token"] == 1000

    def test_a_second_interrupt_stops_at_once(self, data_dir: Path) -> None:
        with Up(data_dir) as up:
            up.await_line("ready ")
            started = up.descendants()
            worker = next(pid for pid, command in started.items() if " worker " in command)
            os.kill(worker, signal.SIGSTOP)  # it would take its whole patience
            up.process.send_signal(signal.SIGINT)
            up.await_line("stopping")
            time.sleep(0.5)
            up.process.send_signal(signal.SIGINT)
            interrupted_at = time.monotonic()
            up.await_end()
            assert time.monotonic() - interrupted_at < 2
        assert until(lambda: alive(started) == {}, 5), alive(started)
