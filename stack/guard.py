"""Becomes another program that dies with its parent and, started by root, is not root.

A child process runs this file, which then replaces itself by PROGRAM:

    python -I -S guard.py --parent PID --signal NAME [--uid N --gid N --reach PATH ...] -- PROGRAM ARGUMENT...

- PROGRAM gets the signal when its parent dies, however that dies (on Linux; elsewhere the next start stops
  what is left). A file of its own rather than a `preexec_fn`, which may deadlock in a process with threads.
- With --uid, PROGRAM runs as that user and group. When some folder above a --reach path is closed to them (a
  clone in root's home), it gets the one Linux capability that lets it pass: no permission and no owner changes.

Standard library only, and no import of the project: after the change of user, its files may be unreadable.
"""

import argparse
import ctypes
import os
import signal
import struct
import sys

EXIT_STATUS = 78  # EX_CONFIG: the machine's set-up is wrong, and the message says how

PR_SET_PDEATHSIG = 1
PR_SET_SECUREBITS = 28
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_RAISE = 2
SECBIT_NO_SETUID_FIXUP = 1 << 2
LINUX_CAPABILITY_VERSION_3 = 0x20080522
CAP_DAC_OVERRIDE = 1
CAP_DAC_READ_SEARCH = 2

# Tried in this order. Almost everywhere no capability (None) is enough. The first capability passes closed folders. The
# last is for containers that withhold the first, and for binaries that the installer's umask closed to others.
CAPABILITIES: tuple[int | None, ...] = (None, CAP_DAC_READ_SEARCH, CAP_DAC_OVERRIDE)


def prctl(option: int, *values: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    words = [ctypes.c_ulong(value) for value in (*values, 0, 0, 0, 0)[:4]]
    if libc.prctl(option, *words) != 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))


def keep_only(capability: int) -> None:
    """Give up every capability except this one, and have it survive the exec."""
    libc = ctypes.CDLL(None, use_errno=True)
    mask = 1 << capability
    header = struct.pack("Ii", LINUX_CAPABILITY_VERSION_3, 0)
    data = struct.pack("6I", mask, mask, mask, 0, 0, 0)  # effective, permitted, inheritable; then their high words
    if libc.capset(header, data) != 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, capability)


def become(uid: int, gid: int, capability: int | None) -> None:
    if capability is not None:
        # Without this bit access(2), by which Postgres looks for its own binary, ignores capabilities.
        prctl(PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP)
    os.setgroups([])
    os.setgid(gid)
    os.setuid(uid)
    if capability is not None:
        keep_only(capability)


def reaches(uid: int, gid: int, capability: int | None, paths: list[str]) -> bool:
    """Whether that user, with that capability, can read and enter or run every path, found by trying."""
    child = os.fork()
    if child == 0:
        reached = False
        try:
            become(uid, gid, capability)
            reached = all(os.access(path, os.R_OK | os.X_OK) for path in paths)
        finally:
            os._exit(0 if reached else 1)  # whatever was raised is an answer too: it can't
    return os.waitpid(child, 0)[1] == 0


def drop_root(uid: int, gid: int, paths: list[str]) -> None:
    capabilities = CAPABILITIES if sys.platform == "linux" else (None,)
    for capability in capabilities:
        if reaches(uid, gid, capability, paths):
            break
    else:
        sys.stderr.write(
            f"Postgres does not run as root, so it is started as another user (uid {uid}), who cannot reach: "
            f"{', '.join(paths)}. Set DATA_DIR to a folder that every user may enter (and keep the clone in "
            "one), or run as a normal user, or set DATABASE_URL to a Postgres of your own.\n"
        )
        sys.exit(EXIT_STATUS)
    become(uid, gid, capability)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--parent", type=int, required=True)
    parser.add_argument("--signal", required=True)
    parser.add_argument("--uid", type=int)
    parser.add_argument("--gid", type=int)
    parser.add_argument("--reach", action="append", default=[])
    parser.add_argument("command", nargs="+")
    options = parser.parse_args()

    if options.uid is not None:
        drop_root(options.uid, options.gid, options.reach)
    if sys.platform == "linux":
        prctl(PR_SET_PDEATHSIG, signal.Signals[options.signal])  # after the change of user, which clears it
        if os.getppid() != options.parent:
            sys.exit(EXIT_STATUS)  # the parent died before the line above
    os.execv(options.command[0], options.command)  # noqa: S606 - no shell is the point


if __name__ == "__main__":
    main()
