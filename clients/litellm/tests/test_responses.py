"""Streams of the Responses API, which LiteLLM's mock responses don't have: the wire format, from a server."""

from __future__ import annotations

import gc
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import litellm
import pytest
from tokentill.testing import MemoryTokentill

from tests.test_logger import eventually, eventually_async, paths, settled
from tokentill_litellm import TokentillLogger

PIECES = 30
USAGE = {
    "input_tokens": 10,
    "output_tokens": 40,
    "total_tokens": 50,
    "input_tokens_details": {"cached_tokens": 4},
    "output_tokens_details": {"reasoning_tokens": 30},
}


def events() -> Iterator[dict[str, Any]]:
    message = {"type": "message", "id": "m", "status": "completed", "role": "assistant", "content": []}
    answer = {"id": "resp_1", "object": "response", "created_at": 1, "status": "completed", "model": "gpt-4o"}
    answer |= {"output": [message], "parallel_tool_calls": True, "tool_choice": "auto", "tools": []}
    yield {"type": "response.created", "response": {**answer, "status": "in_progress", "output": []}}
    place = {"item_id": "m", "output_index": 0, "content_index": 0, "logprobs": []}
    for _ in range(PIECES):
        yield {"type": "response.output_text.delta", "delta": "x", **place}
    yield {"type": "response.completed", "response": {**answer, "usage": USAGE}}


class Provider(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.end_headers()
        for number, event in enumerate(events()):
            self.wfile.write(f"data: {json.dumps({**event, 'sequence_number': number})}\n\n".encode())

    def log_message(self, *_words: Any) -> None:
        return


@pytest.fixture
def call() -> Iterator[dict[str, Any]]:
    provider = ThreadingHTTPServer(("127.0.0.1", 0), Provider)
    threading.Thread(target=provider.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{provider.server_port}/v1"
    yield {"model": "openai/gpt-4o", "stream": True, "api_key": "key", "api_base": address, "user": "ann"}
    provider.shutdown()
    provider.server_close()


def counts(server: MemoryTokentill) -> list[tuple[int, int, int, int]]:
    return [
        (end.input_token, end.output_token, end.cached_input_token, end.reasoning_token)
        for end in server.ends
    ]


# LiteLLM's own warnings, of a response that it validates anew.
@pytest.mark.filterwarnings("ignore")
async def test_a_stream_of_the_responses_api(
    call: dict[str, Any], logger: TokentillLogger, server: MemoryTokentill
) -> None:
    async for event in await litellm.aresponses(input="Hi", **call):
        assert event
    await eventually_async(lambda: server.ends)
    assert counts(server) == [(10, 40, 4, 30)]
    assert paths(server) == ["start", "end"]


@pytest.mark.parametrize("closed", [True, False])
async def test_one_that_is_left_is_billed_for_what_flowed(
    closed: bool, call: dict[str, Any], logger: TokentillLogger, server: MemoryTokentill
) -> None:
    stream = await litellm.aresponses(input="Hi", **call)
    for _ in range(4):
        await anext(stream)
    if closed:
        await stream.aclose()
    del stream
    gc.collect()
    await eventually_async(lambda: server.ends)
    assert counts(server) == [(0, 3, 0, 0)]
    assert settled(server)


def test_a_plain_one_that_is_left(
    call: dict[str, Any], logger: TokentillLogger, server: MemoryTokentill
) -> None:
    stream = litellm.responses(input="Hi", **call)
    for _ in range(4):
        next(stream)
    stream.close()
    eventually(lambda: server.ends)
    assert counts(server) == [(0, 3, 0, 0)]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("chunks", "output_token"), [(3, 3), (1_000, 40)])
async def test_a_chat_completion_made_of_a_response_is_counted_once(
    chunks: int,
    output_token: int,
    call: dict[str, Any],
    logger: TokentillLogger,
    server: MemoryTokentill,
) -> None:
    messages = [{"role": "user", "content": "Hi"}]
    stream = await litellm.acompletion(messages=messages, **{**call, "model": "openai/responses/gpt-4o"})
    async for _chunk in stream:
        chunks -= 1
        if chunks == 0:
            await stream.aclose()
            break
    await eventually_async(lambda: server.ends)
    assert [end.output_token for end in server.ends] == [output_token]
    assert settled(server)
