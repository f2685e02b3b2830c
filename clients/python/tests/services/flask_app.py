"""A service in threads, as its authors write it; also what gunicorn preloads."""

from __future__ import annotations

import os
from typing import Any

import openai
from flask import Flask, Response

from tokentill import TokenProcess, with_token_process

client = TokenProcess(timeout_seconds=0.3, total_timeout_seconds=0.3)
ai = openai.OpenAI(base_url=os.environ["PROVIDER_URL"], api_key="k", max_retries=0)
app = Flask(__name__)


def text_of(chunk: Any) -> str:
    return "".join(choice.delta.content or "" for choice in chunk.choices)


@with_token_process(feature_endpoint_id="f", user_id="u", client=client)
def chat() -> Any:
    ask: Any = [{"role": "user", "content": "?"}]
    return ai.chat.completions.create(model="m", messages=ask, stream=True)


@with_token_process(feature_endpoint_id="f", user_id="u", client=client)
def whole() -> dict[str, int]:
    return {"output_token": 40}


@app.get("/stream")
def get_stream() -> Response:
    answer = chat()
    return Response(text_of(chunk) for chunk in answer)


@app.get("/whole")
def get_whole() -> dict[str, int]:
    return {**whole(), "pid": os.getpid()}


if __name__ == "__main__":
    app.run(port=int(os.environ["PORT"]), threaded=True)
