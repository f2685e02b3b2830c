"""The examples of docs/clients/python.md run as they are printed, and bill what it says.

The guide's own examples, further down on that page, run against a real server (`tests/real`).
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tokentill import HoldRefusedError
from tokentill.testing import MemoryTokentill

PAGE = Path(__file__).resolve().parents[4] / "docs" / "clients" / "python.md"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
CHUNK = {"object": "chat.completion.chunk", "id": "c", "choices": [{"index": 0, "delta": {"content": "x"}}]}
USAGE = {"prompt_tokens": 100, "completion_tokens": 40, "total_tokens": 140}
CHAT = {"object": "chat.completion", "id": "c", "choices": [], "usage": USAGE}
LAST = {**CHUNK, "choices": [], "usage": USAGE}


async def chunks() -> AsyncIterator[dict[str, Any]]:
    for chunk in (CHUNK, CHUNK, LAST):
        yield chunk


def openai_client(create: Any) -> SimpleNamespace:
    return SimpleNamespace(chat=SimpleNamespace(completions=SimpleNamespace(create=create)))


async def create_stream(**_: Any) -> AsyncIterator[dict[str, Any]]:
    return chunks()


def run_block(contains: str, **names: Any) -> dict[str, Any]:
    """The names that the one block with this text leaves behind."""
    [text] = [block for block in BLOCKS if contains in block]
    left = {"__name__": "example", **names}
    exec(compile(text, str(PAGE), "exec"), left)  # noqa: S102
    return left


@pytest.fixture
def server(tokentill_memory: MemoryTokentill) -> MemoryTokentill:
    for feature in ("demo-feature", "chat-endpoint-id", "agent-endpoint-id", "translation-endpoint-id"):
        tokentill_memory.add_feature(feature)
    for user in ("demo-user", "user-1"):
        tokentill_memory.add_wallet(user, 1_000)
    return tokentill_memory


def billed(server: MemoryTokentill) -> list[tuple[int, int]]:
    return [(end.input_token, end.output_token) for end in server.ends]


def test_the_smallest_program(server: MemoryTokentill, capsys: pytest.CaptureFixture[str]) -> None:
    run_block('print(answer("may I?")["text"])')
    assert capsys.readouterr().out == "MAY I?\n"
    # "and demo-user has 11 tokens less": its stack has a profit of 10 percent.
    assert billed(server) == [(12, 40)]


def test_a_wrapped_stream(server: MemoryTokentill, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tokentill.AsyncTokenProcess", server.async_client)
    chat = run_block(
        'feature_endpoint_id="chat-endpoint-id", user_id=lambda', openai_client=openai_client(create_stream)
    )

    async def work() -> int:
        return len([chunk async for chunk in chat["chat"]("user-1", [])])

    assert asyncio.run(work()) == 3
    assert billed(server) == [(100, 40)]


def test_a_run_that_is_started_before_its_stream(server: MemoryTokentill) -> None:
    [text] = [block for block in BLOCKS if "return StreamingResponse(" in block]
    names: dict[str, Any] = {
        "client": server.async_client(),
        "user_id": "user-1",
        "chunks": chunks(),
        "StreamingResponse": lambda stream, media_type: stream,
    }
    exec("async def view():\n" + "".join(f"    {line}\n" for line in text.splitlines()), names)  # noqa: S102

    async def work() -> None:
        async for _ in await names["view"]():
            assert len(server.calls) == 1

    asyncio.run(work())
    assert billed(server) == [(100, 40)]


def test_a_run_by_hand(server: MemoryTokentill) -> None:
    answers = iter([{**CHAT, "id": "1"}, {**CHAT, "id": "2"}])
    ai = openai_client(lambda **_: next(answers))
    run_block("for step in plan", client=server.client(), user_id="user-1", plan=["a", "b"], openai_client=ai)
    assert billed(server) == [(200, 80)]


def test_the_current_run(server: MemoryTokentill) -> None:
    ask = run_block("def ask(", openai_client=openai_client(lambda **_: CHAT))["ask"]
    assert ask([]) is CHAT, "outside of any run"
    with server.client().run(user_id="user-1", feature_endpoint_id="demo-feature"):
        ask([])
    assert billed(server) == [(100, 40)]


def test_a_hold_that_grows_on_the_way(server: MemoryTokentill) -> None:
    def agent(_task: str) -> Iterator[dict[str, int]]:
        for _ in range(10_000):
            yield {"output_token": 1}

    server.add_wallet("poor", 250)
    work = run_block("run.extend_hold(token=100)", client=server.client(), agent=agent)["work"]
    with pytest.raises(HoldRefusedError):
        list(work("poor", "task"))
    # 400 tokens of output cost 100: those of the hold and 100 more are granted, the next are not.
    assert billed(server) == [(0, 800)]


def test_hooks(server: MemoryTokentill, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    metric = SimpleNamespace(
        labels=lambda *of: SimpleNamespace(
            observe=lambda seconds: seen.append((*of, seconds > 0)), inc=lambda: seen.append(of)
        ),
        set=seen.append,
    )
    monkeypatch.setattr("tokentill.TokenProcess", server.client)
    client = run_block("Hooks(", latency=metric, retries=metric, depth=metric)["client"]
    server.fail_next(503)
    client.start("user-1", "demo-feature")
    assert seen == [("start",), ("start", 200, True)]


def test_testing_a_service(server: MemoryTokentill) -> None:
    run_block("def test_a_chat_is_billed")["test_a_chat_is_billed"]()

    def translate_text(data: dict[str, str]) -> None:
        with server.client().run(
            user_id=data["user_id"], feature_endpoint_id="translation-endpoint-id"
        ) as run:
            run.use(output_token=1)

    run_block("def test_translating", translate_text=translate_text)["test_translating_is_billed"](server)
