"""An OpenAI-compatible service that bills its users: their OpenAI client needs only another base_url and key.

Behind it stands any OpenAI-compatible provider (OPENAI_BASE_URL, OPENAI_API_KEY), or a stand-in model where
none is named. The provider's own usage is billed; a stream that is closed early, by what flowed until then.

    curl localhost:8003/v1/chat/completions -H 'authorization: Bearer demo-key' -N \\
      -d '{"model": "echo", "stream": true, "messages": [{"role": "user", "content": "one two three four"}]}'
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import AsyncIterator
from typing import Any

import httpx
import model
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from users import user_of

from tokentill import (
    AsyncTokenProcess,
    FeatureNotAvailableError,
    InsufficientTokensError,
    TokenProcessError,
    WalletNotFoundError,
    count_deltas,
)

FEATURE = os.environ.get("FEATURE_ENDPOINT_ID", "demo-feature")
# The types and statuses of the provider's own errors, which its clients know what to do with.
ERRORS = {
    InsufficientTokensError: (429, "insufficient_quota"),
    FeatureNotAvailableError: (403, "permission_denied"),
    WalletNotFoundError: (403, "permission_denied"),
}

client = AsyncTokenProcess()
provider = httpx.AsyncClient(
    base_url=os.environ.get("OPENAI_BASE_URL", ""),
    headers={"Authorization": f"Bearer {os.environ.get('OPENAI_API_KEY', '')}"},
    timeout=httpx.Timeout(10, read=300),
)


@contextlib.asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
    async with client, provider:
        yield


app = FastAPI(lifespan=lifespan)


@app.post("/v1/chat/completions", response_model=None)
async def chat_completions(request: Request) -> Response:
    user_id = user_of(request.headers.get("authorization"))
    if user_id is None:
        return _error(401, "invalid_api_key", "Unknown key")
    body = await request.json()
    run = client.run(user_id=user_id, feature_endpoint_id=FEATURE, usage=count_deltas)
    await run.start()
    # The provider is always asked for a stream and its usage; the user gets what they asked for.
    chunks = run.stream(_provider_chunks({**body, "stream": True, "stream_options": {"include_usage": True}}))
    if not body.get("stream"):
        return JSONResponse(await _whole(chunks))
    wants_usage = bool((body.get("stream_options") or {}).get("include_usage"))
    return StreamingResponse(_events(chunks, wants_usage=wants_usage), media_type="text/event-stream")


async def _provider_chunks(body: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
    if not os.environ.get("OPENAI_BASE_URL"):
        async for chunk in model.chat(body):
            yield chunk
        return
    async with provider.stream("POST", "/chat/completions", json=body) as answer:
        answer.raise_for_status()
        async for line in answer.aiter_lines():
            data = line.removeprefix("data:").strip()
            if line.startswith("data:") and data != "[DONE]":
                yield json.loads(data)


async def _events(chunks: Any, *, wants_usage: bool) -> AsyncIterator[str]:
    # Closed with the response: what flowed is billed when the user hangs up, not when memory is tidied up.
    async with contextlib.aclosing(chunks):
        async for chunk in chunks:
            if chunk.get("choices") or wants_usage:
                yield f"data: {json.dumps(chunk)}\n\n"
    yield "data: [DONE]\n\n"


async def _whole(chunks: Any) -> dict[str, Any]:
    text, last, usage = "", {}, None
    async for chunk in chunks:
        last = chunk
        usage = chunk.get("usage") or usage
        for choice in chunk.get("choices", []):
            text += choice.get("delta", {}).get("content") or ""
    message = {"role": "assistant", "content": text}
    return {
        "id": last.get("id"),
        "object": "chat.completion",
        "created": last.get("created"),
        "model": last.get("model"),
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": usage,
    }


@app.exception_handler(TokenProcessError)
async def refuse(_request: Request, error: TokenProcessError) -> JSONResponse:
    status, kind = ERRORS.get(type(error), (503, "server_error"))
    return _error(status, kind, error.message if status < 500 else "Billing is unavailable, please retry")


@app.exception_handler(httpx.HTTPError)
async def provider_failed(_request: Request, _error_: httpx.HTTPError) -> JSONResponse:
    return _error(502, "server_error", "The model is unavailable")


def _error(status: int, kind: str, message: str) -> JSONResponse:
    return JSONResponse({"error": {"message": message, "type": kind, "code": kind}}, status)


if __name__ == "__main__":
    uvicorn.run(app, port=int(os.environ.get("PORT", "8003")), log_level="warning")
