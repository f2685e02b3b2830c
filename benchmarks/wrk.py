"""Generates load by wrk (https://github.com/wg/wrk), if it is installed. A request costs it only a few microseconds.

It sends the same requests as `benchmarks.load`, by a Lua script written for each run. An answer other than 200 is a
failure; the caller has to count whether ends were recorded.
"""

from __future__ import annotations

import re
import resource
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

from benchmarks.load import HOST, MARK, Plan, Result, templates_of

_SCRIPT = """
local templates = {%s}
local n = -1
request = function()
  n = n + 1
  return (string.gsub(templates[n %% #templates + 1], "%s", string.format("%%08d", n)))
end
done = function(summary, latency)
  local e = summary.errors
  io.write(string.format("RESULT %%d %%d %%d %%f %%f\\n", summary.requests, summary.duration,
    e.status + e.connect + e.read + e.write + e.timeout, latency:percentile(50), latency:percentile(99)))
end
"""
_RESULT = re.compile(r"^RESULT (\d+) (\d+) (\d+) ([\d.]+) ([\d.]+)$", re.MULTILINE)


def is_installed() -> bool:
    return shutil.which("wrk") is not None


def run(plan: Plan) -> Result:
    """Run a plan that has no rate, no warm-up and whole seconds. Raises RuntimeError if wrk fails."""
    if plan.rate is not None:
        raise ValueError("wrk knows no rate")
    with tempfile.NamedTemporaryFile("w", suffix=".lua", prefix="tokentill-wrk-") as script:
        script.write(_SCRIPT % (",\n".join(map(_lua_text, templates_of(plan))), MARK))
        script.flush()
        cpu_before = resource.getrusage(resource.RUSAGE_CHILDREN)
        begun_at = time.time()
        done = subprocess.run(
            _command(plan, Path(script.name)), capture_output=True, text=True, timeout=plan.seconds + 60, check=False
        )
        cpu_after = resource.getrusage(resource.RUSAGE_CHILDREN)
    found = _RESULT.search(done.stdout)
    if done.returncode or found is None:
        raise RuntimeError(f"wrk: {done.stderr[-1_000:]}{done.stdout[-1_000:]}")
    requests, micros, failures = map(int, found.groups()[:3])
    p50_us, p99_us = map(float, found.groups()[3:])
    return Result(
        requests=requests,
        seconds=micros / 1e6,
        p50_ms=p50_us / 1000,
        p99_ms=p99_us / 1000,
        requests_total=requests,
        failures=failures,
        cpu_seconds=sum(cpu_after[:2]) - sum(cpu_before[:2]),
        begun_at=begun_at,
    )


def _command(plan: Plan, script: Path) -> list[str]:
    wrk = shutil.which("wrk") or "wrk"
    seconds = max(1, round(plan.seconds))
    sizes = ["--threads", "1", "--connections", str(plan.clients), "--duration", f"{seconds}s"]
    return [wrk, *sizes, "--timeout", "30s", "--script", str(script), f"http://{HOST}:{plan.port}/"]


def _lua_text(data: bytes) -> str:
    """These bytes as a Lua string literal."""
    return '"' + "".join(chr(b) if 32 <= b < 127 and b not in b'"\\' else f"\\{b:03d}" for b in data) + '"'
