"""`python -m stack up` runs all of Tokentill here; `python -m stack run NAME` runs one Procfile line;
`python -m stack health NAME` tells whether that process does its work."""

import argparse
import os
import sys
from pathlib import Path

from stack.health import CHECKS, health
from stack.procfile import commands


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m stack", description=__doc__)
    subcommands = parser.add_subparsers(dest="command", required=True)
    subcommands.add_parser("up", help="start everything and keep it running until Ctrl-C")
    run = subcommands.add_parser("run", help="become one of the Procfile's processes")
    run.add_argument("name", choices=list(commands()))
    check = subcommands.add_parser("health", help="exit with status 0 if a process does its work")
    check.add_argument("name", choices=list(CHECKS))
    arguments = parser.parse_args()
    if arguments.command == "health":
        if found := health(arguments.name):
            print(f"{arguments.name}: {found}")
        return 1 if found else 0
    if arguments.command == "run":
        # The programs stand beside this interpreter, also where nobody has activated its environment (a service file).
        path = os.environ.get("PATH", os.defpath)
        os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{path}"
        # A container has no use for the local stack, so it doesn't load it.
        os.execv("/bin/sh", ["/bin/sh", "-c", commands()[arguments.name]])  # noqa: S606 - the line is for a shell
    from stack.up import main as up  # noqa: PLC0415

    return up()


sys.exit(main())
