"""Processes for the local stack: children that die with us, leftovers of a killed run, ports, locks."""

import contextlib
import fcntl
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

GUARD = Path(__file__).with_name("guard.py")


class LaunchError(Exception):
    """Something can't be started; the message is for the person who tried."""


class InUseError(LaunchError):
    """The folder belongs to a run that is still alive."""


def launch(
    command: Sequence[str | Path],
    *,
    death_signal: str,
    cwd: Path,
    env: Mapping[str, str],
    output: int | IO[bytes],
    run_as: tuple[int, int] | None = None,
    reach: Sequence[Path] = (),
) -> subprocess.Popen[bytes]:
    """Starts a program that gets `death_signal` when the calling thread's process dies.

    Call it from a thread that lives as long as the program shall: Linux counts the end of the starting thread
    as the parent's death. The program has a session of its own: Ctrl-C in a terminal reaches only its parent.
    """
    guard: list[str | Path] = [sys.executable, "-I", "-S", GUARD]
    guard += ["--parent", str(os.getpid()), "--signal", death_signal]
    if run_as is not None:
        guard += ["--uid", str(run_as[0]), "--gid", str(run_as[1])]
        for path in reach:
            guard += ["--reach", path]
    return subprocess.Popen(
        [*guard, "--", *command],
        cwd=cwd,
        env=dict(env),
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def stop(process: subprocess.Popen[bytes], *steps: tuple[signal.Signals, float]) -> None:
    """Send signals in turn, waiting the given seconds after each, then SIGKILL."""
    for sign, patience_seconds in steps:
        if process.poll() is not None:
            return
        process.send_signal(sign)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(patience_seconds)
    if process.poll() is None:
        process.kill()
        process.wait()


def until(ready: Callable[[], bool], timeout_seconds: float, pause_seconds: float = 0.02) -> bool:
    deadline = time.monotonic() + timeout_seconds
    while not ready():
        if time.monotonic() > deadline:
            return False
        time.sleep(pause_seconds)
    return True


def running_with(program: str, folder: Path, argument: Path) -> list[int]:
    """Processes of that program that work in `folder`, or were started with `argument`."""
    return [
        pid
        for pid, command, cwd in _processes()
        if _is(program, command) and (cwd == folder or str(argument) in command)
    ]


def _is(program: str, command: list[str]) -> bool:
    # A Postgres child rewrites its title to "postgres: checkpointer ".
    return bool(command) and Path(command[0].split(": ")[0]).name == program


def _processes() -> Iterator[tuple[int, list[str], Path | None]]:
    proc = Path("/proc")
    if not (proc / "self" / "cmdline").exists():
        ps = shutil.which("ps") or "/bin/ps"
        listing = subprocess.run([ps, "-axo", "pid=,command="], capture_output=True, text=True, check=True)
        for line in listing.stdout.splitlines():
            pid, _, words = line.strip().partition(" ")
            yield int(pid), words.split(" "), None
        return
    for entry in proc.iterdir():
        if entry.name.isdigit():
            # Processes may end while we look, and other users' working folders can't be read.
            with contextlib.suppress(OSError):
                command = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
                cwd = None
                with contextlib.suppress(PermissionError):
                    cwd = (entry / "cwd").readlink()
                yield int(entry.name), command, cwd


def stop_leftovers(program: str, folder: Path, argument: Path, *signals: signal.Signals) -> None:
    """Stop processes that an earlier, killed run left behind on this folder, and nothing else.

    The caller holds the folder's lock: whatever still runs there has lost its owner.
    """
    for sign in (*signals, signal.SIGKILL):
        pids = running_with(program, folder, argument)
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, sign)
        if not pids or until(lambda: not running_with(program, folder, argument), 10):
            return
    raise LaunchError(f"{program} still runs on {folder} and does not stop")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def port_in_use(host: str, port: int) -> bool:
    """Whether a server could not listen there, found by trying to bind as servers do."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            probe.listen(1)
        except OSError:
            return True
        return False


class FolderLock:
    """One run per folder: the lock is on an open file, so the system releases it however the holder ends."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: IO[str] | None = None

    def acquire(self, in_use: str) -> None:
        if self._file is not None:
            return
        self._path.touch(mode=0o600)
        file = self._path.open("r+")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = file.read().strip()
            file.close()
            raise InUseError(f"{in_use} (process {holder or 'unknown'})") from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        self._file = file

    def release(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def last_lines(path: Path, count: int = 15) -> str:
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 16_384))
            return "\n".join(file.read().decode(errors="replace").splitlines()[-count:])
    except FileNotFoundError:
        return ""
