"""`python -m tests.faults.chaos`: breaks the server in every way we know and audits it to the last micro-token.

Starts servers and processes of its own in a temporary folder, on the loopback interface, and leaves nothing
behind. Exits 0 when nothing was lost, billed twice or otherwise wrong; 1 with the seed, the last 40 operations and
the history of what went wrong; 3 when it had to be stopped by its own time limit.
"""

from __future__ import annotations

import argparse
import os
import random
import secrets
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from tests.faults import faults
from tests.faults.report import markdown, table
from tests.faults.run import ChaosRun
from tests.faults.sabotage import SABOTAGES

SHORT_SEED = 20_260
KILLS = 120
KILLS_PER_MIX = 1.9
SECONDS_MAX = 3_000.0
SHORT_SECONDS_MAX = 200.0
# Time beyond that for faults: starting, coming to rest, auditing.
GRACE_SECONDS = 300.0  # mostly unused: each wait has a limit of its own
VIOLATIONS_SHOWN = 12
TIME_LIMIT_EXIT = 3


def plan(rng: random.Random, names: list[str], kills: int, *, is_short: bool) -> list[str]:
    """First each fault alone, then mixed ones."""
    if is_short:
        return [name for name in names for _ in range(2 if name == faults.MIXED else 1)]
    killing = [name for name in names if name in faults.KILLS]
    each = max(1, round(kills * 0.7 / max(1, len(killing))))
    order: list[str] = []
    for name in names:
        if name in faults.KILLS:
            order += [name] * each
        elif name == faults.MIXED:
            order += [name] * max(1, round(kills * 0.3 / KILLS_PER_MIX))
        else:
            order += [name] * (2 if name in faults.SLOW else 6)
    return order


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.chaos", description=__doc__)
    names = [*faults.ALL, faults.MIXED]
    parser.add_argument("--seed", type=int, help="default: a random one, printed")
    parser.add_argument("--kills", type=int, default=KILLS, help=f"about how many kills (default {KILLS})")
    parser.add_argument("--seconds", type=float, help="strike no longer than this")
    parser.add_argument("--faults", default=",".join(names), help=f"of {', '.join(names)}")
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--short", action="store_true", help="each fault once, with a fixed seed")
    parser.add_argument("--report", type=Path, help="write the table there as Markdown")
    parser.add_argument("--sabotage", choices=SABOTAGES, help="break the database first: the run has to fail")
    parser.add_argument("--keep", action="store_true", help="keep the folder with the logs")
    options = parser.parse_args(arguments)
    chosen = options.faults.split(",")
    if unknown := set(chosen) - set(names):
        parser.error(f"no such fault: {', '.join(sorted(unknown))}")
    seed = options.seed if options.seed is not None else SHORT_SEED if options.short else secrets.randbelow(10**6)
    seconds_max = options.seconds or (SHORT_SECONDS_MAX if options.short else SECONDS_MAX)
    folder = Path(tempfile.mkdtemp(prefix="tokentill-chaos-"))
    run = ChaosRun(
        folder=folder,
        seed=seed,
        plan=plan(random.Random(seed), chosen, options.kills, is_short=options.short),
        clients=options.clients,
        seconds_max=seconds_max,
        is_short=options.short,
        say=say,
        sabotage=SABOTAGES[options.sabotage].statements if options.sabotage else "",
    )
    say(f"seed {seed}, {len(run.plan)} faults, {options.clients} clients, logs in {folder}")
    return execute(run, options.report, seconds_max + GRACE_SECONDS, keep=options.keep)


def execute(run: ChaosRun, report: Path | None, limit_seconds: float, *, keep: bool) -> int:
    started = time.monotonic()
    limit = threading.Timer(limit_seconds, _give_up, args=(run, limit_seconds))
    limit.daemon = True
    limit.start()
    # SIGTERM ends a run as Ctrl-C does, so that every `finally` block runs.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        violations = run.run()
    except KeyboardInterrupt:
        say("interrupted")
        return 130
    except BaseException:
        explain(run)
        raise
    finally:
        limit.cancel()
        if not keep:
            shutil.rmtree(run.folder, ignore_errors=True)
    seconds = time.monotonic() - started
    rows = list(run.rows.values())
    say(f"\n{table(rows)}\n")
    say(f"answers: {', '.join(f'{count} {name}' for name, count in sorted(run.book.statuses.items()))}")
    cuts = ", ".join(f"{count} {moment}" for moment, count in sorted(run.cut.items())) or "none"
    say(f"connections cut: {cuts}")
    say(
        f"without Postgres to ask: {run.book.answered_anew} repeats answered anew, "
        f"{len(run.book.reused)} bodies accepted under a used key and put aside"
    )
    if run.ended:
        say(f"{run.ended} processes ended by themselves and were started again")
    verdict = f"{len(violations)} violations" if violations else "Nothing lost, nothing double, every wallet conserved."
    say(f"seed {run.seed}: {run.kills} kills in {seconds:.0f} s. {verdict}")
    if report is not None:
        command = f"python -m tests.faults.chaos --seed {run.seed}{' --short' if run.is_short else ''}"
        report.write_text(markdown(run.seed, command, run.kills, seconds, rows, verdict))
    if violations:
        explain(run)
        return 1
    return 0


def explain(run: ChaosRun, say: Callable[[str], None] = say) -> None:
    """Print what is needed to find the cause: the seed, the violations, and the operations before them."""
    say(f"\nseed {run.seed}; the last operations:")
    for line in run.book.operations:
        say(f"  {line}")
    kinds = Counter(violation.kind for violation in run.violations)
    say(f"\nviolations: {', '.join(f'{count} {kind}' for kind, count in kinds.items())}")
    for violation in run.violations[:VIOLATIONS_SHOWN]:
        say(f"\n{violation.kind}: {violation.text}")
        for attempt in run.book.history(violation.key or ""):
            say(f"    {attempt}")
    if len(run.violations) > VIOLATIONS_SHOWN:
        say(f"\n... and {len(run.violations) - VIOLATIONS_SHOWN} more")


def _give_up(run: ChaosRun, seconds: float) -> None:
    say(f"stopped by its own limit of {seconds:.0f} seconds")
    explain(run)
    # The servers die with this process. Our programs have children, which wouldn't.
    for program in run.stack.programs if run.stack is not None else []:
        program.kill()
    os._exit(TIME_LIMIT_EXIT)


if __name__ == "__main__":
    sys.exit(main())
