"""Adding up the numbers of a machine's processes, whichever of them is asked, and whoever dies meanwhile.

Each process writes its numbers into a file of its own once a second, in a folder that all of an installation's
processes on a machine share, and keeps a lock on another one for as long as it lives: the kernel lets go of it however
the process ends. Whoever adds up finds by the lock which are dead, adds what they had counted to `retired`, once, and
removes their files. So counters never fall while the folder stays, nothing grows with the number of processes that
ever were, and the gauges of the dead are gone.

A process that is killed takes what it counted in its last second with it. Where the folder can't be used, a process
tells its own numbers alone, and says so in the log.
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
    """What a machine's processes, the dead among them, have counted together, and the gauges of those that live."""

    together: Numbers
    gauges: dict[str, Numbers] = field(default_factory=dict)
    """By process, such as `web-4711`."""


class _Retired(msgspec.Struct):
    """What the dead have counted. `merged` are those of them whose files may still be there."""

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
        """Take part, as a process of this kind, until the process ends."""
        try:
            _make_private(self._folder)
            with self._alone():
                # Nobody takes us for dead between making the file and locking it.
                name = f"{kind}-{os.getpid()}-{secrets.token_hex(4)}"
                self._lock_file = os.open(self._lock_path(name), os.O_CREAT | os.O_RDWR, 0o600)
                fcntl.flock(self._lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            log.warning("numbers_not_shared", folder=str(self._folder), error=str(error))
            return
        self._name = name
        threading.Thread(target=self._run, name="numbers", daemon=True).start()
        # At the end of a server's process as of any other: Granian's workers run no `atexit` functions.
        Finalize(self, self.close, exitpriority=0)

    def close(self) -> None:
        """Hand over what was counted until now, and leave."""
        self._stopping.set()
        if self._name is not None and self._lock_file is not None:
            self._write()
            os.close(self._lock_file)
            self._name = None

    def collect(self) -> MachineNumbers:
        """All numbers of this machine. Never raises because the folder can't be read: then they are ours alone."""
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
            # Added and noted in one step; who dies before the files are gone has them not added again.
            retired.merged = list(dead)
            self._replace(RETIRED, msgspec.json.encode(retired))
            for each in dead:
                self._data_path(each).unlink(missing_ok=True)
                self._lock_path(each).unlink(missing_ok=True)
                for draft in self._folder.glob(f"{each}.*.new"):
                    draft.unlink(missing_ok=True)
        # Ours first: by its bounds a histogram is added up.
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
            # It hasn't written yet, or another version has.
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
            # A full disk, or a folder that was cleaned away: the next second tries again.
            log.debug("numbers_not_written", error=str(error))
        except Exception:
            log.exception("numbers_not_written")

    def _replace(self, name: str, data: bytes) -> None:
        draft = self._data_path(name).with_suffix(f".{os.getpid()}.new")
        draft.write_bytes(data)
        draft.replace(self._data_path(name))

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """One at a time of all processes that add up or join."""
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
    """A process as its label tells it: without what makes a process id that comes again another process."""
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
    """Make a folder that nobody else can write to. Raises OSError, also where one is somebody else's."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
        raise PermissionError(f"{folder} isn't a folder of ours alone")
