"""The program that a child is before it is a server."""

import os
import subprocess
import sys
from pathlib import Path

from stack import guard

GUARD = [sys.executable, "-I", "-S", guard.__file__]
PRINT = [sys.executable, "-c", "print('ran')"]


def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([*GUARD, *arguments], capture_output=True, text=True, check=False)


def test_becomes_the_program() -> None:
    result = run("--parent", str(os.getpid()), "--signal", "SIGKILL", "--", *PRINT)
    assert (result.returncode, result.stdout) == (0, "ran\n")


def test_a_parent_that_is_gone_already_starts_nothing() -> None:
    result = run("--parent", "1", "--signal", "SIGKILL", "--", *PRINT)
    assert (result.returncode, result.stdout) == (guard.EXIT_STATUS, "")


def test_what_the_other_user_cannot_reach_is_named_with_the_ways_out(tmp_path: Path) -> None:
    missing = str(tmp_path / "missing")
    options = ["--parent", str(os.getpid()), "--signal", "SIGKILL", "--uid", "65534", "--gid", "65534"]
    result = run(*options, "--reach", missing, "--", *PRINT)
    assert (result.returncode, result.stdout) == (guard.EXIT_STATUS, "")
    assert missing in result.stderr
    for way_out in ("DATA_DIR", "normal user", "DATABASE_URL"):
        assert way_out in result.stderr
