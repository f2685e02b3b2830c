"""Servers that operators run, from Debian's packages: unpacked for the tests, so that nothing gets installed."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from stack.processes import launch, stop, until

PACKAGES = ("pgbouncer", "redis-server", "redis-sentinel")
PROGRAMS = ("pgbouncer", "redis-server", "redis-sentinel", "redis-cli")
NOBODY = (65534, 65534)


@dataclass(frozen=True)
class Debian:
    """Where the programs are, and the libraries that came with them."""

    programs: Mapping[str, Path]
    libraries: Path | None = None

    @property
    def environment(self) -> dict[str, str]:
        return {} if self.libraries is None else {"LD_LIBRARY_PATH": str(self.libraries)}

    def run(self, name: str, *arguments: str | Path) -> str:
        done = subprocess.run(
            [self.programs[name], *arguments], env=self.environment, capture_output=True, text=True, check=True
        )
        return done.stdout


def debian(config: pytest.Config) -> Debian:
    """The machine's own programs, or else those that apt brings; skips where there is neither."""
    own = {name: shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin") for name in PROGRAMS}
    if all(own.values()):
        return Debian({name: Path(path) for name, path in own.items() if path})
    apt, dpkg = shutil.which("apt-get"), shutil.which("dpkg-deb")
    if apt is None or dpkg is None:
        pytest.skip(f"needs {', '.join(PROGRAMS)}, and this machine has neither them nor apt-get")
    folder = config.cache.mkdir("debian") if config.cache else Path()
    unpacked = folder / "unpacked"
    if not unpacked.exists():
        _unpack(apt, dpkg, folder, unpacked)
    [libraries] = (unpacked / "usr" / "lib").glob("*-linux-gnu*")
    found = {name: next(path for path in unpacked.glob(f"usr/*bin/{name}")) for name in PROGRAMS}
    return Debian(found, libraries)


def _unpack(apt_get: str, dpkg: str, folder: Path, unpacked: Path) -> None:
    archives, lists = folder / "archives", folder / "lists"
    for path in (archives / "partial", lists / "partial"):
        path.mkdir(parents=True, exist_ok=True)
    # Folders of our own and no lock, so that no right to install is needed.
    apt = [apt_get, "--quiet", "--yes", "-o", "Debug::NoLocking=1", "-o", f"Dir::Cache::archives={archives}"]
    apt += ["-o", f"Dir::State::lists={lists}", "-o", f"Dir::Cache::pkgcache={folder}/pkgcache.bin"]
    apt += ["-o", f"Dir::Cache::srcpkgcache={folder}/srcpkgcache.bin", "-o", "APT::Sandbox::User=root"]
    subprocess.run([*apt, "update"], check=True, capture_output=True)
    install = ["--download-only", "--no-install-recommends", "--reinstall", "install", *PACKAGES]
    subprocess.run([*apt, *install], check=True, capture_output=True)
    draft = folder / "draft"
    shutil.rmtree(draft, ignore_errors=True)
    for archive in archives.glob("*.deb"):
        subprocess.run([dpkg, "--extract", archive, draft], check=True, capture_output=True)
    draft.rename(unpacked)


class Server:
    """One of these programs, run on a configuration file. It dies with the tests."""

    def __init__(
        self, debian: Debian, name: str, folder: Path, lines: Sequence[str], *, run_as: tuple[int, int] | None = None
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._debian = debian
        self._name = name
        self._run_as = run_as if os.geteuid() == 0 else None
        self._configuration = folder / f"{name}.conf"
        self._configuration.write_text("\n".join(lines) + "\n")

    def start(self) -> None:
        with (self.folder / "log").open("ab") as output:
            self.process = launch(
                [self._debian.programs[self._name], self._configuration],
                death_signal="SIGKILL",
                cwd=self.folder,
                env={"PATH": os.defpath, **self._debian.environment},
                output=output,
                run_as=self._run_as,
                reach=[self.folder],
            )

    def kill(self) -> None:
        stop(self.process)

    def await_log(self, text: str) -> None:
        log = self.folder / "log"
        assert until(lambda: text in log.read_text(errors="replace"), 20), log.read_text(errors="replace")
