"""`python -m benchmarks` measures what Tokentill costs, `python -m benchmarks wsgi` compares WSGI servers."""

from __future__ import annotations

import argparse
import signal
import sys

from benchmarks import report, table, wsgi

# Together with the installation this stays below 15 minutes.
SECONDS_MAX = 540.0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("what", nargs="?", choices=["table", "wsgi"], default="table")
    parser.add_argument("--clients", type=int, default=32, help="keep-alive clients at once (32)")
    parser.add_argument("--rounds", type=int, default=5, help="how often everything is measured, while time lasts (5)")
    parser.add_argument("--seconds", type=float, default=4.0, help="of each measurement (4)")
    parser.add_argument("--name", default=None, help="of the files in benchmarks/results (bench, wsgi); '' writes none")
    arguments = parser.parse_args()
    # End as after Ctrl-C: stop the servers and remove the temporary folder.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    effort = report.Effort(arguments.clients, arguments.rounds, arguments.seconds, SECONDS_MAX)
    figures: dict[str, object] | None = None
    if arguments.what == "wsgi":
        text, name = wsgi.main(effort), "wsgi"
    else:
        (text, figures), name = table.main(effort), "bench"
    print(text)
    if arguments.name != "":
        for path in report.save(arguments.name or name, text, figures):
            print(f"\nwritten to {path}")
    return 0


sys.exit(main())
