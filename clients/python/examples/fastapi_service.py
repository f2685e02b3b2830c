"""A FastAPI service with a billed feature, whole and as a stream.

curl 'localhost:8002/write?prompt=one+two+three+four' -H 'authorization: Bearer demo-key'
curl 'localhost:8002/stream?prompt=one+two+three+four' -H 'authorization: Bearer demo-key' -N
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from typing import Annotated, Any

import model
import uvicorn
from fastapi import Depends, FastAPI, Header, HTTPException, Request
from fastapi.responses import JSONResponse, StreamingResponse
from users import user_of

from tokentill import (
    AsyncTokenProcess,
    FeatureNotAvailableError,
    InsufficientTokensError,
    TokenProcessError,
    Usage,
    WalletNotFoundError,
    with_token_process,
)

FEATURE = os.environ.get("FEATURE_ENDPOINT_ID", "demo-feature")
STATUS = {InsufficientTokensError: 402, FeatureNotAvailableError: 403, WalletNotFoundError: 404}

client = AsyncTokenProcess()


@contextlib.asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
    async with client:
        yield


app = FastAPI(lifespan=lifespan)


def user(authorization: Annotated[str | None, Header()] = None) -> str:
    found = user_of(authorization)
    if found is None:
        raise HTTPException(401)
    return found


User = Annotated[str, Depends(user)]


@with_token_process(feature_endpoint_id=FEATURE, user_id=lambda user_id, _prompt: user_id, client=client)
async def write(user_id: str, prompt: str) -> dict[str, Any]:
    text = await asyncio.to_thread(model.generate, prompt)
    return {
        "text": text,
        "input_token": model.count(prompt),
        "output_token": model.count(text),
        "model": "echo",
    }


@app.get("/write")
async def get_write(user_id: User, prompt: str) -> dict[str, Any]:
    return await write(user_id, prompt)


@app.get("/stream")
async def get_stream(user_id: User, prompt: str) -> StreamingResponse:
    run = client.run(
        user_id=user_id,
        feature_endpoint_id=FEATURE,
        usage=lambda text: Usage(output_token=model.count(text)),
    )
    # Before the response begins, so that a refusal still has a status of its own.
    await run.start()
    return StreamingResponse(run.stream(words(prompt)), media_type="text/plain")


async def words(prompt: str) -> AsyncIterator[str]:
    for word in model.generate(prompt).split():
        await asyncio.sleep(model.SECONDS_A_TOKEN)
        yield f"{word} "


@app.exception_handler(TokenProcessError)
async def refuse(_request: Request, error: TokenProcessError) -> JSONResponse:
    # What went wrong between us and the billing server is not the user's to read.
    status = STATUS.get(type(error), 503)
    text = error.message if status < 500 else "Billing is unavailable, please retry"
    return JSONResponse({"error": text}, status)


if __name__ == "__main__":
    uvicorn.run(app, port=int(os.environ.get("PORT", "8002")), log_level="warning")
