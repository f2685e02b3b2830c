"""Programs from Debian's packages that operators and users run: unpacked for the tests, so nothing gets installed."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from stack.processes import launch, stop, until

STORES = {"pgbouncer": "pgbouncer", "redis-server": "redis-server", "redis-sentinel": "redis-sentinel",
          "redis-cli": "redis-tools"}  # fmt: skip
NOBODY = (65534, 65534)


@dataclass(frozen=True)
class Debian:
    """Where the programs are, and the libraries that came with them."""

    programs: Mapping[str, Path]
    libraries: Sequence[Path] = ()

    @property
    def environment(self) -> dict[str, str]:
        return {"LD_LIBRARY_PATH": os.pathsep.join(map(str, self.libraries))} if self.libraries else {}

    def run(self, name: str, *arguments: str | Path) -> str:
        done = subprocess.run(
            [self.programs[name], *arguments], env=self.environment, capture_output=True, text=True, check=True
        )
        return done.stdout


def debian(config: pytest.Config, wanted: Mapping[str, str] = STORES) -> Debian:
    """Programs by name, each with its package: the machine's own, or else those that apt brings.

    Skips where there is neither.
    """
    own = {name: shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin") for name in wanted}
    if all(own.values()):
        return Debian({name: Path(path) for name, path in own.items() if path})
    unpacked = unpack(config, sorted(set(wanted.values())))
    found = {name: next(path for path in unpacked.glob(f"usr/*bin/{name}")) for name in wanted}
    return Debian(found, libraries_of(unpacked))


def libraries_of(unpacked: Path) -> list[Path]:
    return [path for top in (unpacked / "usr" / "lib").glob("*-linux-gnu*") for path in (top, *top.glob("pulseaudio"))]


def unpack(config: pytest.Config, packages: Sequence[str]) -> Path:
    """A folder with these packages and those they need that the machine lacks. Skips where apt can't bring them."""
    apt, dpkg = shutil.which("apt-get"), shutil.which("dpkg-deb")
    if apt is None or dpkg is None:
        pytest.skip(f"needs {', '.join(packages)}, and this machine has neither them nor apt-get")
    assert config.cache is not None
    folder = config.cache.mkdir("debian") / "+".join(packages)
    folder.mkdir(exist_ok=True)
    unpacked = folder / "unpacked"
    with (folder / "lock").open("w") as lock:
        # Tests that run side by side wait for the first of them.
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not unpacked.exists():
            try:
                _unpack(apt, dpkg, folder, unpacked, packages)
            except subprocess.CalledProcessError as error:
                if os.environ.get("CI"):
                    raise
                pytest.skip(f"apt-get didn't bring {', '.join(packages)}: {error.stderr.decode()[-300:]}")
    return unpacked


def _unpack(apt_get: str, dpkg: str, folder: Path, unpacked: Path, packages: Sequence[str]) -> None:
    archives, lists = folder / "archives", folder / "lists"
    for path in (archives / "partial", lists / "partial"):
        path.mkdir(parents=True, exist_ok=True)
    # Folders of our own and no lock, so that no right to install is needed.
    apt = [apt_get, "--quiet", "--yes", "-o", "Debug::NoLocking=1", "-o", f"Dir::Cache::archives={archives}"]
    apt += ["-o", f"Dir::State::lists={lists}", "-o", f"Dir::Cache::pkgcache={folder}/pkgcache.bin"]
    apt += ["-o", f"Dir::Cache::srcpkgcache={folder}/srcpkgcache.bin", "-o", "APT::Sandbox::User=root"]
    subprocess.run([*apt, "update"], check=True, capture_output=True)
    install = ["--download-only", "--no-install-recommends", "--reinstall", "install", *packages]
    subprocess.run([*apt, *install], check=True, capture_output=True)
    draft = folder / "draft"
    shutil.rmtree(draft, ignore_errors=True)
    for archive in archives.glob("*.deb"):
        subprocess.run([dpkg, "--extract", archive, draft], check=True, capture_output=True)
    draft.rename(unpacked)
    # What was downloaded is as large again.
    shutil.rmtree(archives)


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
