"""`python -m benchmarks wsgi`: the same application under several WSGI servers, side by side.

gunicorn and waitress are no dependencies of Tokentill. They take part if they can be imported:

    pip install --target /tmp/wsgi-servers gunicorn waitress
    PYTHONPATH=/tmp/wsgi-servers python -m benchmarks wsgi
"""

from __future__ import annotations

import importlib.util
import sys
from collections import defaultdict
from collections.abc import Callable, Sequence
from statistics import median

from benchmarks import report
from benchmarks.machine import Machine, Measurement, WebProcess, machine

YARDSTICK = "granian, 32 threads"
KINDS = ("healthz", "start", "end")
TARGET = "app.wsgi:app"


def main(effort: report.Effort) -> str:
    """Run everything. Returns the report."""
    header = report.machine_line()
    absent = [name for name in ("gunicorn", "waitress") if importlib.util.find_spec(name) is None]
    with machine() as own:
        servers = [start(own) for start in _starters(absent)]
        measured: dict[tuple[str, str], list[Measurement]] = defaultdict(list)
        for i in effort.begin(own.warnings):
            for kind in KINDS:
                # In reverse order every other round, so that a drift of the machine is fair.
                for server in servers if i % 2 == 0 else reversed(servers):
                    measured[server.label, kind].append(
                        own.measure(server, kind, clients=effort.clients, seconds=effort.seconds)
                    )
                    own.settle_everything()
        parts = [header, f"{effort}; one worker process unless named. Median (lowest-highest)."]
        parts += [part for kind in KINDS for part in _compared(kind, servers, measured)]
        if absent:
            parts.append(f"Not installed, so not measured: {', '.join(absent)}.")
        return "\n\n".join(["# WSGI servers, side by side", *parts, *report.complaints(own.warnings)])


def _starters(absent: Sequence[str]) -> list[Callable[[Machine], WebProcess]]:
    def granian(threads: int, workers: int = 1) -> Callable[[Machine], WebProcess]:
        label = f"granian, {threads} threads" + (f", {workers} workers" if workers > 1 else "")
        return lambda own: own.web(label, threads=threads, workers=workers)

    def module(label: str, *arguments: str) -> Callable[[Machine], WebProcess]:
        return lambda own: own.start(label, [sys.executable, "-m", *arguments, TARGET])

    # Like the Procfile's command except for the named options, to see their effect.
    plain = ["granian", "--interface", "wsgi", "--host", "127.0.0.1", "--port", "{port}", "--workers", "1"]
    plain += ["--blocking-threads", "32", "--no-access-log", "--log-level", "error"]
    many = ["--http", "1", "--no-ws", "--runtime-mode", "mt", "--runtime-threads", "2"]
    starters = [
        *(granian(threads) for threads in (1, 4, 8, 16, 32, 64)),
        granian(32, workers=2),
        module("granian, 32 threads, --http auto --ws", *plain),
        module("granian, 32 threads, 2 runtime threads", *plain, *many),
    ]
    if "gunicorn" not in absent:
        gunicorn = ["gunicorn", "--worker-class", "gthread", "--workers", "1", "--threads", "32", "--keep-alive", "75"]
        starters.append(module("gunicorn gthread, 32 threads", *gunicorn, "--bind", "127.0.0.1:{port}"))
    if "waitress" not in absent:
        starters.append(module("waitress, 32 threads", "waitress", "--listen=127.0.0.1:{port}", "--threads=32"))
    return starters


def _compared(
    kind: str, servers: Sequence[WebProcess], measured: dict[tuple[str, str], list[Measurement]]
) -> list[str]:
    yardstick = [run.load.per_second for run in measured[YARDSTICK, kind]]
    rows = []
    for server in servers:
        runs = measured[server.label, kind]
        rates = [run.load.per_second for run in runs]
        rows.append(
            [
                server.label,
                report.spread(rates),
                report.spread(report.ratios(rates, yardstick)),
                report.spread([run.load.p50_ms for run in runs]),
                report.spread([run.load.p99_ms for run in runs]),
                f"{median(run.server_cpu_us for run in runs):,.0f}",
                f"{median(run.load.cpu_us for run in runs):,.0f}",
            ]
        )
    heads = ["server", "requests/s", f"to {YARDSTICK}", "p50 ms", "p99 ms", "server CPU us", "client CPU us"]
    return [f"## {kind}", report.table(heads, rows)]
