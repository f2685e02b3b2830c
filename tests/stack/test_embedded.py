"""The embedded servers keep data, come back after crashes, touch nothing else and outlive nobody."""

import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.retry import Retry

from stack.embedded import EmbeddedServer, PostgresServer, ValkeyServer
from stack.processes import InUseError, LaunchError, running_with, until
from stack.procfile import ROOT

FAST = {"fsync": "off"}
PS = shutil.which("ps") or "/bin/ps"
SLEEP = shutil.which("sleep") or "/bin/sleep"


@pytest.fixture
def postgres(tmp_path: Path) -> Iterator[PostgresServer]:
    with PostgresServer(tmp_path / "postgres", settings=FAST) as server:
        yield server


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[ValkeyServer]:
    with ValkeyServer(tmp_path / "redis") as server:
        yield server


@pytest.fixture(params=[PostgresServer, ValkeyServer])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[EmbeddedServer]:
    kind: type[EmbeddedServer] = request.param
    with kind(tmp_path / "data") as started:
        yield started


def remember(server: EmbeddedServer) -> int:
    """Adds one entry; answers how many there are."""
    if isinstance(server, PostgresServer):
        with psycopg.connect(server.url, autocommit=True) as connection:
            connection.execute("CREATE TABLE IF NOT EXISTS entries (id int)")
            connection.execute("INSERT INTO entries VALUES (1)")
            row = connection.execute("SELECT count(*) FROM entries").fetchone()
            assert row is not None
            return int(row[0])
    with redis_client(server.url) as client:
        return int(client.incr("entries"))


def redis_client(url: str) -> Redis:
    return Redis.from_url(url, socket_timeout=5, retry=Retry(NoBackoff(), 0))


def is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_data_survive_a_restart(server: EmbeddedServer) -> None:
    assert remember(server) == 1
    url = server.url
    server.stop()
    assert not server.running
    server.start()
    assert server.url == url
    assert remember(server) == 2


def test_data_survive_a_crash(server: EmbeddedServer) -> None:
    assert remember(server) == 1
    pid = server.pid
    server.kill()
    assert is_gone(pid)
    server.start()
    assert remember(server) == 2


def test_a_server_that_was_killed_from_outside_starts_again(server: EmbeddedServer) -> None:
    remember(server)
    os.kill(server.pid, signal.SIGKILL)
    assert until(lambda: not server.running, 10)
    server.start()
    assert remember(server) == 2


def test_the_password_stays_and_is_for_the_owner_only(server: EmbeddedServer) -> None:
    password = server.password
    assert len(password) >= 32
    assert (server.data_dir / "password").stat().st_mode & 0o077 == 0
    assert server.log_path.stat().st_mode & 0o077 == 0
    server.stop()
    server.start()
    assert server.password == password


def test_no_command_line_shows_the_password(server: EmbeddedServer) -> None:
    listing = subprocess.run([PS, "-axww", "-o", "command="], capture_output=True, text=True, check=True)
    assert server.program in listing.stdout
    assert server.password not in listing.stdout


def test_a_second_run_on_a_folder_is_refused(server: EmbeddedServer) -> None:
    second = type(server)(server.data_dir)
    with pytest.raises(InUseError, match=rf"in use by another run.*process {os.getpid()}"):
        second.start()
    assert remember(server) == 1


def test_a_leftover_on_the_folder_is_stopped_and_replaced(server: EmbeddedServer) -> None:
    remember(server)
    leftover = server.pid
    server._lock.release()  # as when its launcher is gone
    with type(server)(server.data_dir) as second:
        assert not server.running
        assert is_gone(leftover)
        assert remember(second) == 2


def test_two_servers_side_by_side_do_not_disturb_each_other(server: EmbeddedServer, tmp_path: Path) -> None:
    remember(server)
    with type(server)(tmp_path / "other") as other:
        assert other.port != server.port
        assert remember(other) == 1
        other.kill()
        other.start()
        assert remember(other) == 2
        assert remember(server) == 2


def test_a_long_path_with_spaces_and_quotes_is_fine(server: EmbeddedServer, tmp_path: Path) -> None:
    folder = tmp_path / ('it\'s a "long" one ' + "x" * 120) / "data"
    with type(server)(folder) as other:
        assert remember(other) == 1
        other.kill()
        other.start()
        assert remember(other) == 2


def test_a_port_in_use_is_reported_with_the_servers_own_words(server: EmbeddedServer, tmp_path: Path) -> None:
    other = type(server)(tmp_path / "other", port=server.port)
    with pytest.raises(LaunchError, match=r"did not start(.|\n)*Address already in use"):
        other.start()
    assert not other.running
    assert running_with(other.program, other.folder, other.mark) == []


def test_a_folder_that_cannot_be_made_names_the_variable(server: EmbeddedServer, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LaunchError, match="DATA_DIR"):
        type(server)(tmp_path / "file" / "data").start()


def test_servers_die_with_a_killed_launcher(server: EmbeddedServer, tmp_path: Path) -> None:
    folder = tmp_path / "other"
    code = f"""
        import time
        from pathlib import Path
        from stack.embedded import {type(server).__name__} as Server
        print(Server(Path({str(folder)!r})).start().pid, flush=True)
        time.sleep(600)
    """
    launcher = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    with launcher:
        assert launcher.stdout is not None
        pid = int(launcher.stdout.readline())
        assert not is_gone(pid)
        launcher.kill()
    assert until(lambda: is_gone(pid), 10)
    with type(server)(folder) as again:
        assert remember(again) == 1


class TestPostgres:
    def test_settings(self, postgres: PostgresServer) -> None:
        with psycopg.connect(postgres.url) as connection:

            def show(name: str) -> str:
                row = connection.execute("SELECT current_setting(%s)", [name]).fetchone()
                assert row is not None
                return str(row[0])

            assert show("TimeZone") == "UTC"
            assert show("server_encoding") == "UTF8"
            assert show("listen_addresses") == "127.0.0.1"
            assert show("unix_socket_directories") == ""
            assert show("log_lock_waits") == "on"
            assert show("password_encryption") == "scram-sha-256"
            row = connection.execute("SELECT datcollate FROM pg_database WHERE datname = current_database()").fetchone()
            assert row == ("C",)

    def test_is_durable_unless_told_otherwise(self, tmp_path: Path) -> None:
        with (
            PostgresServer(tmp_path / "durable") as server,
            psycopg.connect(server.url) as connection,
        ):
            assert connection.execute("SHOW fsync").fetchone() == ("on",)
            assert connection.execute("SHOW synchronous_commit").fetchone() == ("on",)

    def test_a_wrong_password_is_refused(self, postgres: PostgresServer) -> None:
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            psycopg.connect(postgres.url.replace(postgres.password, "wrong"))

    def test_runs_as_a_user_who_owns_nothing_but_the_cluster(self, tmp_path: Path) -> None:
        # A closed folder above, as with a clone in root's home.
        closed = tmp_path / "closed"
        closed.mkdir(mode=0o700)
        outside = [closed, *closed.parents]
        before = [(path.stat().st_mode, path.stat().st_uid, path.stat().st_gid) for path in outside]
        with PostgresServer(closed / "data" / "postgres", settings=FAST) as server:
            listing = subprocess.run(
                [PS, "-o", "uid=", "-p", str(server.pid)], capture_output=True, text=True, check=True
            )
            uid = int(listing.stdout)
            assert uid != 0
            assert server.folder.stat().st_uid == uid
            assert server.folder.stat().st_mode & 0o077 == 0
            assert server.data_dir.stat().st_uid == os.geteuid()
            assert (server.data_dir / "password").stat().st_uid == os.geteuid()
            assert remember(server) == 1
        assert [(path.stat().st_mode, path.stat().st_uid, path.stat().st_gid) for path in outside] == before

    def test_a_half_made_cluster_is_made_anew(self, tmp_path: Path) -> None:
        draft = tmp_path / "postgres" / "cluster.new"
        draft.mkdir(parents=True)
        (draft / "PG_VERSION").write_text("18\n")
        with PostgresServer(tmp_path / "postgres", settings=FAST) as server:
            assert remember(server) == 1
        assert not draft.exists()
        assert not (tmp_path / "postgres" / "password.initdb").exists()

    def test_a_stale_pid_file_that_names_another_program_is_no_obstacle(self, postgres: PostgresServer) -> None:
        remember(postgres)
        postgres.kill()
        pid_file = postgres.folder / "postmaster.pid"
        lines = pid_file.read_text().splitlines()
        with subprocess.Popen(
            [SLEEP, "60"], user=postgres.folder.stat().st_uid if os.geteuid() == 0 else None
        ) as bystander:
            try:
                pid_file.write_text("\n".join([str(bystander.pid), *lines[1:]]) + "\n")
                postgres.start()
                assert remember(postgres) == 2
                assert bystander.poll() is None
            finally:
                bystander.kill()

    def test_databases_from_a_template(self, postgres: PostgresServer) -> None:
        remember(postgres)
        url = postgres.create_database("copy", template=postgres.database)
        with psycopg.connect(url) as connection:
            assert connection.execute("SELECT count(*) FROM entries").fetchone() == (1,)

    def test_deadlocks_are_in_the_log(self, postgres: PostgresServer) -> None:
        lock = "SELECT FROM rows WHERE id = %s FOR UPDATE"
        with psycopg.connect(postgres.url) as one, psycopg.connect(postgres.url) as other:
            one.execute("CREATE TABLE rows (id int PRIMARY KEY)")
            one.execute("INSERT INTO rows VALUES (1), (2)")
            one.commit()
            one.execute(lock, [1])
            other.execute(lock, [2])
            with ThreadPoolExecutor() as threads:
                crossed = [threads.submit(one.execute, lock, [2]), threads.submit(other.execute, lock, [1])]
            errors = [error for future in crossed if (error := future.exception())]
        assert [type(error) for error in errors] == [psycopg.errors.DeadlockDetected]
        assert "deadlock detected" in postgres.log_path.read_text()


class TestValkey:
    def test_settings(self, valkey: ValkeyServer) -> None:
        with redis_client(valkey.url) as client:
            settings = client.config_get("*")
        assert settings["appendonly"] == "yes"
        assert settings["appendfsync"] == "everysec"
        assert settings["maxmemory-policy"] == "noeviction"
        assert settings["bind"] == "127.0.0.1"
        assert settings["unixsocket"] == ""

    def test_a_client_without_the_password_is_refused(self, valkey: ValkeyServer) -> None:
        with (
            redis_client(f"redis://127.0.0.1:{valkey.port}/0") as client,
            pytest.raises(AuthenticationError),
        ):
            client.ping()

    def test_stops_listening(self, valkey: ValkeyServer) -> None:
        url = valkey.url
        valkey.stop()
        with redis_client(url) as client, pytest.raises(RedisConnectionError):
            client.ping()

    def test_a_long_log_is_put_aside(self, valkey: ValkeyServer) -> None:
        valkey.stop()
        valkey.log_path.write_bytes(b"x" * 10_000_001)
        valkey.start()
        assert valkey.log_path.stat().st_size < 10_000
        assert time.time() - valkey.log_path.stat().st_mtime < 60
