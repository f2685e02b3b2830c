"""Adds up the numbers of a machine's processes. Any of them can be asked, and any may die at any time.

Once a second each process writes its numbers into a file of its own, in a folder that all processes of an installation
on the machine share. It keeps a lock on a second file as long as it lives: the kernel releases the lock however the
process ends. The process that adds up recognises dead ones by their free locks, adds their counts to `retired` exactly
once, and removes their files. So counters never fall while the folder stays, the number of files doesn't grow with the
number of past processes, and gauges of dead processes disappear.

A killed process loses what it counted in its last second. Where the folder can't be used, a process reports only its
own numbers and logs that.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import stat
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing.util import Finalize
from pathlib import Path

import msgspec
import structlog

from app.meters.instruments import Meters
from app.meters.numbers import Numbers

log = structlog.get_logger(__name__)

WRITE_SECONDS = 1.0
RETIRED = "retired"


@dataclass(frozen=True, slots=True)
class MachineNumbers:
    """The counts of all processes of a machine, dead ones included, and the gauges of the living ones."""

    together: Numbers
    gauges: dict[str, Numbers] = field(default_factory=dict)
    """By process, such as `web-4711`."""


class _Retired(msgspec.Struct):
    """The counts of dead processes. `merged` are those of them whose files may still exist."""

    numbers: Numbers
    merged: list[str] = []


class Share:
    def __init__(self, folder: Path, meters: Meters) -> None:
        self._folder = folder
        self._meters = meters
        self._name: str | None = None
        self._lock_file: int | None = None
        self._writing = threading.Lock()
        self._stopping = threading.Event()

    def start(self, kind: str) -> None:
        """Share this process's numbers, as a process of this kind, until it ends."""
        try:
            _make_private(self._folder)
            with self._alone():
                # The folder's lock keeps others from taking us for dead between creating the file and locking it.
                name = f"{kind}-{os.getpid()}-{secrets.token_hex(4)}"
                self._lock_file = os.open(self._lock_path(name), os.O_CREAT | os.O_RDWR, 0o600)
                fcntl.flock(self._lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            log.warning("numbers_not_shared", folder=str(self._folder), error=str(error))
            return
        self._name = name
        threading.Thread(target=self._run, name="numbers", daemon=True).start()
        # Runs also at the end of Granian's workers, which run no `atexit` functions.
        Finalize(self, self.close, exitpriority=0)

    def close(self) -> None:
        """Write the final counts and stop."""
        self._stopping.set()
        if self._name is not None and self._lock_file is not None:
            self._write()
            os.close(self._lock_file)
            self._name = None

    def collect(self) -> MachineNumbers:
        """All numbers of this machine. If the folder can't be read, they are this process's alone; that raises
        nothing.
        """
        own = self._meters.numbers()
        if self._name is None:
            return MachineNumbers(own, {f"process-{os.getpid()}": own})
        try:
            with self._alone():
                return self._add_up(self._name, own)
        except OSError as error:
            log.warning("numbers_not_read", folder=str(self._folder), error=str(error))
            return MachineNumbers(own, {_told(self._name): own})

    def _add_up(self, name: str, own: Numbers) -> MachineNumbers:
        retired = self._retired()
        living = {name: own}
        dead: dict[str, Numbers] = {}
        for path in sorted(self._folder.glob("*.lock")):
            other = path.stem
            if other != name:
                (living if _is_locked(path) else dead)[other] = self._read(other)
        if dead or retired.merged:
            for each, numbers in dead.items():
                if each not in retired.merged:
                    retired.numbers.add(numbers)
            # The counts and the names of the merged processes are written in one step: if we die before the files are
            # removed, they aren't added again.
            retired.merged = list(dead)
            self._replace(RETIRED, msgspec.json.encode(retired))
            for each in dead:
                self._data_path(each).unlink(missing_ok=True)
                self._lock_path(each).unlink(missing_ok=True)
                for draft in self._folder.glob(f"{each}.*.new"):
                    draft.unlink(missing_ok=True)
        # Our own numbers come first, because their bounds decide which histograms can be added.
        together = Numbers(bounds=dict(own.bounds))
        for numbers in (own, retired.numbers, *(numbers for other, numbers in living.items() if other != name)):
            together.add(numbers)
        return MachineNumbers(together, {_told(other): numbers for other, numbers in living.items()})

    def _retired(self) -> _Retired:
        try:
            return msgspec.json.decode(self._data_path(RETIRED).read_bytes(), type=_Retired)
        except (FileNotFoundError, ValueError):
            return _Retired(Numbers())

    def _read(self, name: str) -> Numbers:
        try:
            return Numbers.decode(self._data_path(name).read_bytes())
        except (FileNotFoundError, ValueError):
            # It hasn't written yet, or another release has written it.
            return Numbers()

    def _run(self) -> None:
        while not self._stopping.wait(WRITE_SECONDS):
            self._write()

    def _write(self) -> None:
        if self._name is None:
            return
        try:
            with self._writing:
                self._replace(self._name, self._meters.numbers().encode())
        except OSError as error:
            # A full disk, or a folder that was removed: the next second tries again.
            log.debug("numbers_not_written", error=str(error))
        except Exception:
            log.exception("numbers_not_written")

    def _replace(self, name: str, data: bytes) -> None:
        draft = self._data_path(name).with_suffix(f".{os.getpid()}.new")
        draft.write_bytes(data)
        draft.replace(self._data_path(name))

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """One process at a time adds up or joins."""
        file = os.open(self._folder / "folder", os.O_CREAT | os.O_RDWR, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield
        finally:
            os.close(file)

    def _data_path(self, name: str) -> Path:
        return self._folder / f"{name}.json"

    def _lock_path(self, name: str) -> Path:
        return self._folder / f"{name}.lock"


def _told(name: str) -> str:
    """A process's name in labels: without the random part that distinguishes processes with the same pid."""
    return name.rpartition("-")[0]


def _is_locked(path: Path) -> bool:
    file = os.open(path, os.O_RDWR)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(file)
    return False


def _make_private(folder: Path) -> None:
    """Create the folder, writable only by us. Raises OSError, also where it exists and belongs to somebody else."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
        raise PermissionError(f"{folder} isn't a folder of ours alone")
