"""`tokentill outbox status | flush | discard`: look at an outbox and send what is in it.

Exits 0 when nothing waits any more, 1 when something does, 2 when the outbox or the settings can't be used.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokentill.client import TokenProcess
from tokentill.errors import ConfigurationError, TokenProcessError
from tokentill.outbox import Outbox, RefusedEnd
from tokentill.version import __version__


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    try:
        with_outbox = _open(options.path)
        try:
            return int(options.command(with_outbox, options))
        finally:
            with_outbox.close()
    except TokenProcessError as error:
        print(f"tokentill: {error}", file=sys.stderr)
        return 2


def status(outbox: Outbox, options: argparse.Namespace) -> int:
    state = outbox.status()
    refused = outbox.refused()
    if options.json:
        report = {**dataclasses.asdict(state), "refused_ends": [_end(end) for end in refused]}
        print(json.dumps(report, indent=2))
        return int(state.pending > 0)
    print(f"outbox    {outbox.path}")
    print(f"pending   {state.pending} of at most {state.ends_max}{_age(state.oldest_seconds)}")
    print(f"refused   {state.refused}")
    if state.last_error:
        print(f"last error  {state.last_error}")
    for end in refused:
        print(f"  {end.idempotency_key}  {end.error}  {end.body}")
    return int(state.pending > 0)


def flush(outbox: Outbox, options: argparse.Namespace) -> int:
    if options.refused:
        print(f"{outbox.retry_refused()} refused ends are tried again")
    with TokenProcess(options.url, outbox=outbox, background=False) as client:
        began = time.monotonic()
        done = client.flush_outbox(timeout_seconds=options.timeout_seconds)
    took_seconds = time.monotonic() - began
    print(f"{done.sent} sent in {took_seconds:.1f} s, {done.refused} refused, {done.postponed} still wait")
    if done.error is not None and (done.postponed or done.refused):
        print(f"tokentill: {done.error}", file=sys.stderr)
    return int(done.postponed > 0)


def discard(outbox: Outbox, options: argparse.Namespace) -> int:
    end = outbox.discard_refused(options.key)
    if end is None:
        print(f"tokentill: no refused end has the key {options.key}", file=sys.stderr)
        return 2
    # The last trace of it: whoever discards it may want to keep the line.
    print(json.dumps(_end(end)))
    return 0


def _open(path: Path | None) -> Outbox:
    if path is None:
        raise ConfigurationError("Give the outbox with --path, or set TOKENTILL_OUTBOX")
    if not path.exists():
        raise ConfigurationError(f"There is no outbox at {path}")
    return Outbox(path)


def _end(end: RefusedEnd) -> dict[str, Any]:
    return {
        **dataclasses.asdict(end),
        "body": json.loads(end.body),
        "created_at": end.created_at.isoformat(timespec="seconds"),
    }


def _age(oldest_seconds: float | None) -> str:
    return "" if oldest_seconds is None else f", the oldest {int(oldest_seconds)} s old"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="tokentill", description="Tokentill's Python client")
    parser.add_argument("--version", action="version", version=f"tokentill {__version__} (Python client)")
    areas = parser.add_subparsers(required=True, metavar="COMMAND")
    outbox = areas.add_parser("outbox", help="ends on disk that the server has not acknowledged yet")
    commands = outbox.add_subparsers(required=True, metavar="status | flush | discard")
    environment = os.environ.get("TOKENTILL_OUTBOX")
    default = Path(environment) if environment else None

    def command(name: str, run: Any, summary: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=summary, description=summary)
        sub.add_argument("--path", type=Path, default=default, help="the outbox's file (TOKENTILL_OUTBOX)")
        sub.set_defaults(command=run)
        return sub

    show = command("status", status, "say what waits and what was refused")
    show.add_argument("--json", action="store_true", help="as JSON")
    send = command("flush", flush, "send everything that waits, with TOKEN_SERVER_URL and SERVER_API_KEY")
    send.add_argument("--url", help="the server (TOKEN_SERVER_URL)")
    send.add_argument("--timeout-seconds", type=float, default=60.0, help="seconds to try for (60)")
    send.add_argument("--refused", action="store_true", help="also what was refused, once the reason is gone")
    drop = command("discard", discard, "remove one refused end for good, and print it")
    drop.add_argument("key", help="its idempotency key")
    return parser
