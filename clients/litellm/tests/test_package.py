"""The package as published: built, unpacked beside LiteLLM, used."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[1]

SMOKE = """
import asyncio, sys
import litellm
import tokentill_litellm
from tokentill.testing import MemoryTokentill

assert tokentill_litellm.__file__.startswith(sys.argv[1]), tokentill_litellm.__file__
server = MemoryTokentill(features=["chat"], wallets={"ann": 100})
with server.client() as client:
    litellm.callbacks = [tokentill_litellm.TokentillLogger(client=client, feature_endpoint_id="chat")]
    messages = [{"role": "user", "content": "Hi"}]
    call = {"model": "gpt-4o", "messages": messages, "mock_response": "Hello", "user": "ann"}
    asyncio.run(litellm.acompletion(**call))
    for _ in litellm.completion(**call, stream=True): pass
assert len(server.ends) == 2 and server.token("ann") < 95, server.ends
"""


def run(*command: str, **env: str) -> str:
    done = subprocess.run(command, env={**os.environ, **env}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    # What LiteLLM tells at the interpreter's exit is heard.
    assert "Error" not in done.stderr, done.stderr
    return done.stdout


@pytest.mark.parametrize("kind", ["*.whl", "*.tar.gz"])
def test_it_is_built_and_bills(kind: str, tmp_path: Path) -> None:
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", str(tmp_path / "dist"), str(PROJECT))
    [package] = (tmp_path / "dist").glob(kind)
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet")
    place = str(tmp_path / "place")
    run(*pip, "--no-index", "--no-deps", "--no-build-isolation", "--target", place, str(package))
    run(sys.executable, "-c", SMOKE, place, PYTHONPATH=place)
