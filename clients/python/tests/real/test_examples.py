"""The example services as processes of their own, used as their users use them."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest

from tests.real.bank import Bank
from tests.real.server import Server, free_ports

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
KEY = {"Authorization": "Bearer demo-key"}


@contextlib.contextmanager
def service(name: str, server: Server, user: str, feature: str) -> Iterator[str]:
    port = free_ports(1)[0]
    env = {
        **os.environ,
        "PORT": str(port),
        "TOKEN_SERVER_URL": server.url,
        "SERVER_API_KEY": server.server_key,
        "DEMO_USER_ID": user,
        "FEATURE_ENDPOINT_ID": feature,
    }
    process = subprocess.Popen(
        [sys.executable, str(EXAMPLES / f"{name}.py")], env=env, stderr=subprocess.PIPE, text=True
    )
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 30
        while True:
            with contextlib.suppress(httpx.TransportError):
                httpx.get(url)
                break
            assert process.poll() is None
            assert time.monotonic() < deadline, f"{name} didn't start"
            time.sleep(0.05)
        yield url
    finally:
        process.terminate()
        process.communicate(timeout=20)


def wait_for_usage(bank: Bank, user: str, count: int) -> list[int]:
    """Output tokens of the wallet's runs, newest first, once there are that many."""
    deadline = time.monotonic() + 15
    while len(usage := bank.usage(user)) < count and time.monotonic() < deadline:
        time.sleep(0.05)
    return [item["output_token"] for item in usage]


@pytest.mark.parametrize("name", ["flask_service", "fastapi_service"])
def test_flask_and_fastapi(name: str, server: Server, bank: Bank, ten_percent: tuple[str, str]) -> None:
    feature, package = ten_percent
    user = bank.wallet(package, 20)

    def ask(url: str, path: str, prompt: str) -> contextlib.AbstractContextManager[httpx.Response]:
        if name == "flask_service":
            return httpx.stream("POST", url + path, data={"prompt": prompt}, headers=KEY)
        return httpx.stream("GET", url + path, params={"prompt": prompt}, headers=KEY)

    with service(name, server, user, feature) as url:
        with ask(url, "/write", "one two three four") as answer:
            assert "one! two! three! four!" in answer.read().decode()
        with ask(url, "/stream", "one two three four") as answer:
            assert answer.read() == b"one! two! three! four! "
        assert wait_for_usage(bank, user, 2) == [4, 4]
        with ask(url, "/stream", "word " * 2_000) as answer:
            flowing = answer.iter_bytes()
            for _ in range(3):
                next(flowing)
        used = wait_for_usage(bank, user, 3)
        assert 3 <= used[0] < 2_000, "billed for what flowed until the user hung up"
        bank.drain(user)
        with ask(url, "/stream", "one") as answer:
            assert answer.status_code == 402
        assert httpx.post(f"{url}/write", headers={"Authorization": "Bearer nobody"}).status_code in {
            401,
            405,
        }
    assert len(bank.usage(user)) == 3


def test_openai_compatible(server: Server, bank: Bank, ten_percent: tuple[str, str]) -> None:
    feature, package = ten_percent
    user = bank.wallet(package, 1_000)
    ask: list[openai.types.chat.ChatCompletionMessageParam] = [
        {"role": "user", "content": "one two three four"}
    ]
    long: list[openai.types.chat.ChatCompletionMessageParam] = [{"role": "user", "content": "word " * 2_000}]
    with (
        service("openai_compatible", server, user, feature) as url,
        openai.OpenAI(base_url=f"{url}/v1", api_key="demo-key", max_retries=0) as ai,
    ):
        whole = ai.chat.completions.create(model="echo", messages=ask)
        assert whole.choices[0].message.content == "one! two! three! four! "
        assert whole.usage is not None
        assert (whole.usage.prompt_tokens, whole.usage.completion_tokens) == (4, 4)

        with ai.chat.completions.create(model="echo", messages=ask, stream=True) as stream:
            assert (
                "".join(chunk.choices[0].delta.content or "" for chunk in stream) == "one! two! three! four! "
            )
        assert wait_for_usage(bank, user, 2) == [4, 4]
        assert bank.settled(user) * 10 == 10_000 - 22

        with ai.chat.completions.create(model="echo", messages=long, stream=True) as stream:
            for _ in range(3):
                next(stream)
        assert 3 <= wait_for_usage(bank, user, 3)[0] < 2_000

        bank.drain(user)
        with pytest.raises(openai.RateLimitError, match="Insufficient tokens"):
            ai.chat.completions.create(model="echo", messages=ask, stream=True)
        with pytest.raises(openai.AuthenticationError):
            ai.with_options(api_key="nobody").chat.completions.create(model="echo", messages=ask)
