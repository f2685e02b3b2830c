"""`python -m benchmarks` measures calls and settlement, `python -m benchmarks wsgi` compares WSGI servers."""

from __future__ import annotations

import argparse
import signal
import sys

from benchmarks import report, suite, wsgi


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("what", nargs="?", choices=["suite", "wsgi"], default="suite")
    parser.add_argument("--clients", type=int, default=32, help="keep-alive clients at once (32)")
    parser.add_argument("--rounds", type=int, default=3, help="how often everything is measured (3)")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each measurement (2)")
    parser.add_argument("--save", metavar="NAME", help="also write the report to benchmarks/results/NAME.md")
    arguments = parser.parse_args()
    # Leave as from Ctrl-C: servers stopped, the temporary folder gone.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    chosen = wsgi.main if arguments.what == "wsgi" else suite.main
    text = chosen(report.Effort(arguments.clients, arguments.rounds, arguments.seconds))
    print(text)
    if arguments.save:
        print(f"\nwritten to {report.save(arguments.save, text)}")
    return 0


sys.exit(main())
