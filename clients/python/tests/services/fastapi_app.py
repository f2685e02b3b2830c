"""A service on asyncio, as its authors write it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from typing import Any

import openai
from fastapi import FastAPI
from fastapi.responses import StreamingResponse

from tokentill import AsyncTokenProcess, current_run, with_token_process

client = AsyncTokenProcess()
ai = openai.AsyncOpenAI(base_url=os.environ["PROVIDER_URL"], api_key="k", max_retries=0)
app = FastAPI()


def text_of(chunk: Any) -> str:
    return "".join(choice.delta.content or "" for choice in chunk.choices)


@with_token_process(feature_endpoint_id="f", user_id="u", hold_token=10, client=client)
async def chat() -> Any:
    ask: Any = [{"role": "user", "content": "?"}]
    return await ai.chat.completions.create(model="m", messages=ask, stream=True)


@with_token_process(feature_endpoint_id="f", user_id="u", client=client)
async def generate() -> AsyncIterator[str]:
    run = current_run()
    assert run is not None
    ask: Any = [{"role": "user", "content": "?"}]
    async for chunk in await ai.chat.completions.create(model="m", messages=ask, stream=True):
        # What is yielded is bare text.
        run.read(chunk)
        yield text_of(chunk)


@with_token_process(feature_endpoint_id="f", user_id="u", client=client)
async def whole() -> dict[str, int]:
    return {"output_token": 40}


@app.get("/stream")
async def get_stream() -> StreamingResponse:
    answer = await chat()
    return StreamingResponse(text_of(chunk) async for chunk in answer)


@app.get("/generate")
async def get_generated() -> StreamingResponse:
    return StreamingResponse(generate())


@app.get("/whole")
async def get_whole() -> dict[str, int]:
    return await whole()


@app.get("/in-a-second")
async def get_in_a_second() -> str:
    try:
        await asyncio.wait_for(whole(), 1)
    except asyncio.TimeoutError:
        return "late"
    return "in time"
