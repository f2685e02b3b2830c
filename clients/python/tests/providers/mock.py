"""A server on loopback that speaks the wire formats of model providers, as their packages expect them.

Every answer is 100 tokens in (60 of them from a cache) and 40 out (30 of them reasoning, where the provider
counts it); a stream carries `PIECES` pieces of text and ends with the same counts.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.unit.answers import INTERACTION_USAGE

PIECES = 10
_ids = itertools.count(1)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        """Quiet."""

    def handle(self) -> None:
        # A client that leaves a stream early may reset its connection.
        with contextlib.suppress(ConnectionError):
            super().handle()

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])) or b"{}")
        path = self.path.partition("?")[0]
        if path.endswith("/chat/completions"):
            self._answer(body, _chat(body), _chat_stream(body))
        elif path.endswith("/responses"):
            self._answer(body, _response(body["model"]), _response_stream(body["model"]))
        elif path.endswith("/embeddings"):
            self._json(_embedding(body["model"]))
        elif path.endswith("/messages"):
            self._answer(body, _message(body["model"]), _message_stream(body["model"]))
        elif path.endswith(":generateContent"):
            self._json(_gemini("STOP", 10))
        elif path.endswith(":streamGenerateContent"):
            self._sse((None, chunk) for chunk in _gemini_stream())
        elif path.endswith(":batchEmbedContents"):
            self._json({"embeddings": [{"values": [0.5]}], "usageMetadata": {"promptTokenCount": 100}})
        elif path.endswith("/interactions"):
            self._answer(body, _interaction(), _interaction_stream())
        elif path == "/api/chat":
            self._ollama(body)
        elif path == "/api/embed":
            self._json({"model": body["model"], "embeddings": [[0.5]], "prompt_eval_count": 100})
        else:
            self.send_error(404)

    def do_GET(self) -> None:
        if self.path.endswith("/results"):
            self._begin("application/x-jsonl")
            for number in range(2):
                result = {"type": "succeeded", "message": _message("claude-mock")}
                self._chunk(json.dumps({"custom_id": str(number), "result": result}) + "\n")
            self._chunk("")
        else:
            self._json({"id": "batch_1", "type": "message_batch", "results_url": f"{self._url()}/results"})

    def _url(self) -> str:
        return f"http://{self.headers['Host']}{self.path}"

    def _answer(self, body: dict[str, Any], whole: Any, stream: Iterator[tuple[str | None, Any]]) -> None:
        if body.get("stream"):
            self._sse(stream)
        else:
            self._json(whole)

    def _json(self, answer: Any) -> None:
        content = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _sse(self, events: Iterator[tuple[str | None, Any]]) -> None:
        self._begin("text/event-stream")
        for name, data in events:
            text = data if isinstance(data, str) else json.dumps(data)
            self._chunk((f"event: {name}\n" if name else "") + f"data: {text}\n\n")
        self._chunk("")

    def _ollama(self, body: dict[str, Any]) -> None:
        about = {"model": body["model"], "created_at": "2026-01-01T00:00:00Z"}
        done = {
            **about,
            "message": {"role": "assistant", "content": "Hello." if not body["stream"] else ""},
            "done": True,
            "done_reason": "stop",
            "prompt_eval_count": 100,
            "eval_count": 40,
        }
        if not body["stream"]:
            self._json(done)
            return
        self._begin("application/x-ndjson")
        for _ in range(PIECES):
            piece = {**about, "message": {"role": "assistant", "content": "x"}, "done": False}
            self._chunk(json.dumps(piece) + "\n")
        self._chunk(json.dumps(done) + "\n")
        self._chunk("")

    def _begin(self, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def _chunk(self, text: str) -> None:
        content = text.encode()
        self.wfile.write(f"{len(content):x}\r\n".encode() + content + b"\r\n")


@contextlib.contextmanager
def mock_provider() -> Iterator[str]:
    """The URL of a server that is there for as long as the block."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


_OPENAI = {
    "prompt_tokens": 100,
    "completion_tokens": 40,
    "total_tokens": 140,
    "prompt_tokens_details": {"cached_tokens": 60, "audio_tokens": 0},
    "completion_tokens_details": {"reasoning_tokens": 30, "audio_tokens": 0},
}
# A model name of xAI's: its reasoning is beside the completion.
_XAI = {
    "prompt_tokens": 100,
    "completion_tokens": 10,
    "total_tokens": 140,
    "prompt_tokens_details": {"cached_tokens": 60},
    "completion_tokens_details": {"reasoning_tokens": 30},
}


def _chat_usage(body: dict[str, Any]) -> dict[str, Any]:
    return _XAI if body["model"].startswith("grok") else _OPENAI


def _chat(body: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": f"chatcmpl-{next(_ids)}",
        "object": "chat.completion",
        "created": 1,
        "model": body["model"],
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Hello."},
                "finish_reason": "length" if body.get("max_tokens") == 40 else "stop",
            }
        ],
        "usage": _chat_usage(body),
    }


def _chat_stream(body: dict[str, Any]) -> Iterator[tuple[str | None, Any]]:
    with_usage = (body.get("stream_options") or {}).get("include_usage")
    chunk = {
        "id": f"chatcmpl-{next(_ids)}",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": body["model"],
        **({"usage": None} if with_usage else {}),
    }

    def choices(delta: dict[str, Any], reason: str | None = None) -> dict[str, Any]:
        return {**chunk, "choices": [{"index": 0, "delta": delta, "finish_reason": reason}]}

    yield None, choices({"role": "assistant", "content": ""})
    for _ in range(PIECES):
        yield None, choices({"content": "x"})
    yield None, choices({}, "stop")
    if with_usage:
        yield None, {**chunk, "choices": [], "usage": _chat_usage(body)}
    yield None, "[DONE]"


def _response(model: str, status: str = "completed", answer_id: str | None = None) -> dict[str, Any]:
    text = {"type": "output_text", "text": "Hello.", "annotations": []}
    message = {"id": "msg", "type": "message", "role": "assistant", "status": status, "content": [text]}
    done = status == "completed"
    return {
        "id": answer_id or f"resp_{next(_ids)}",
        "object": "response",
        "created_at": 1,
        "model": model,
        "status": status,
        "output": [message] if done else [],
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "usage": {
            "input_tokens": 100,
            "input_tokens_details": {"cached_tokens": 60},
            "output_tokens": 40,
            "output_tokens_details": {"reasoning_tokens": 30},
            "total_tokens": 140,
        }
        if done
        else None,
    }


def _response_stream(model: str) -> Iterator[tuple[str | None, Any]]:
    done = _response(model)
    begun = _response(model, "in_progress", done["id"])
    part = {"type": "output_text", "text": "", "annotations": []}
    item = {"id": "msg", "type": "message", "role": "assistant", "status": "in_progress", "content": []}
    at: dict[str, Any] = {"item_id": "msg", "output_index": 0, "content_index": 0}
    events: list[dict[str, Any]] = [
        {"type": "response.created", "response": begun},
        {"type": "response.in_progress", "response": begun},
        {"type": "response.output_item.added", "output_index": 0, "item": item},
        {"type": "response.content_part.added", **at, "part": part},
        *[{"type": "response.output_text.delta", **at, "delta": "x", "logprobs": []}] * PIECES,
        {"type": "response.output_text.done", **at, "text": "x" * PIECES, "logprobs": []},
        {"type": "response.content_part.done", **at, "part": {**part, "text": "x" * PIECES}},
        {"type": "response.output_item.done", "output_index": 0, "item": done["output"][0]},
        {"type": "response.completed", "response": done},
    ]
    for number, event in enumerate(events):
        yield event["type"], {**event, "sequence_number": number}


def _embedding(model: str) -> dict[str, Any]:
    return {
        "object": "list",
        "model": model,
        "data": [{"object": "embedding", "index": 0, "embedding": [0.5]}],
        "usage": {"prompt_tokens": 100, "total_tokens": 100},
    }


_ANTHROPIC_INPUT = {"input_tokens": 30, "cache_creation_input_tokens": 10, "cache_read_input_tokens": 60}


def _message(model: str) -> dict[str, Any]:
    return {
        "id": f"msg_{next(_ids)}",
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": [{"type": "text", "text": "Hello."}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {**_ANTHROPIC_INPUT, "output_tokens": 40},
    }


def _message_stream(model: str) -> Iterator[tuple[str | None, Any]]:
    begun = {
        **_message(model),
        "content": [],
        "stop_reason": None,
        "usage": {**_ANTHROPIC_INPUT, "output_tokens": 1},
    }
    text = {"type": "text_delta", "text": "x"}
    events: list[dict[str, Any]] = [
        {"type": "message_start", "message": begun},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "ping"},
        *[{"type": "content_block_delta", "index": 0, "delta": text}] * PIECES,
        {"type": "content_block_stop", "index": 0},
        {
            "type": "message_delta",
            "delta": {"stop_reason": "end_turn", "stop_sequence": None},
            "usage": {"output_tokens": 40},
        },
        {"type": "message_stop"},
    ]
    for event in events:
        yield event["type"], event


def _gemini(reason: str | None, candidates: int, answer_id: str | None = None) -> dict[str, Any]:
    thoughts = 30 if reason else 0
    candidate = {"index": 0, "content": {"role": "model", "parts": [{"text": "x"}]}}
    return {
        "responseId": answer_id or f"gem{next(_ids)}",
        "modelVersion": "gemini-2.5-flash",
        "candidates": [{**candidate, "finishReason": reason} if reason else candidate],
        "usageMetadata": {
            "promptTokenCount": 95,
            "cachedContentTokenCount": 60,
            "toolUsePromptTokenCount": 5,
            "candidatesTokenCount": candidates,
            "thoughtsTokenCount": thoughts,
            "totalTokenCount": 100 + candidates + thoughts,
        },
    }


def _gemini_stream() -> Iterator[dict[str, Any]]:
    answer_id = f"gem{next(_ids)}"
    for number in range(1, PIECES):
        yield _gemini(None, number, answer_id)
    yield _gemini("STOP", PIECES, answer_id)


def _interaction() -> dict[str, Any]:
    return {
        "id": f"interaction-{next(_ids)}",
        "object": "interaction",
        "model": "gemini-2.5-flash",
        "status": "completed",
        "steps": [{"type": "model_output", "content": [{"type": "text", "text": "Hello."}]}],
        "usage": INTERACTION_USAGE,
    }


def _interaction_stream() -> Iterator[tuple[str | None, Any]]:
    done = _interaction()
    begun = {name: done[name] for name in ("id", "object", "model")} | {"status": "in_progress"}
    delta = {"type": "text", "text": "x"}
    events: list[dict[str, Any]] = [
        {"event_type": "interaction.created", "interaction": begun},
        {"event_type": "step.start", "index": 0, "step": {"type": "model_output"}},
        *[{"event_type": "step.delta", "index": 0, "delta": delta}] * PIECES,
        {"event_type": "step.stop", "index": 0},
        {"event_type": "interaction.completed", "interaction": done},
    ]
    for event in events:
        yield event["event_type"], event
    yield None, "[DONE]"
