"""A Flask service with a billed feature, whole and as a stream.

curl localhost:8001/write  -H 'authorization: Bearer demo-key' -d 'prompt=one two three four'
curl localhost:8001/stream -H 'authorization: Bearer demo-key' -d 'prompt=one two three four' -N
"""

from __future__ import annotations

import os
from typing import Any

import model
from flask import Flask, Response, abort, request
from users import user_of

from tokentill import (
    FeatureNotAvailableError,
    InsufficientTokensError,
    TokenProcess,
    TokenProcessError,
    Usage,
    WalletNotFoundError,
    with_token_process,
)

FEATURE = os.environ.get("FEATURE_ENDPOINT_ID", "demo-feature")
STATUS = {InsufficientTokensError: 402, FeatureNotAvailableError: 403, WalletNotFoundError: 404}

app = Flask(__name__)
client = TokenProcess()


@with_token_process(feature_endpoint_id=FEATURE, user_id=lambda user_id, _prompt: user_id, client=client)
def write(user_id: str, prompt: str) -> dict[str, Any]:
    text = model.generate(prompt)
    return {
        "text": text,
        "input_token": model.count(prompt),
        "output_token": model.count(text),
        "model": "echo",
    }


@app.post("/write")
def post_write() -> dict[str, Any]:
    return write(_user(), request.form["prompt"])


@app.post("/stream")
def post_stream() -> Response:
    run = client.run(
        user_id=_user(),
        feature_endpoint_id=FEATURE,
        usage=lambda text: Usage(output_token=model.count(text)),
    )
    # Before the response begins, so that a refusal still has a status of its own.
    run.start()
    return Response(run.stream(model.generate_words(request.form["prompt"])), mimetype="text/plain")


@app.errorhandler(TokenProcessError)
def refuse(error: TokenProcessError) -> tuple[dict[str, Any], int]:
    # What went wrong between us and the billing server is not the user's to read.
    status = STATUS.get(type(error), 503)
    return {"error": error.message if status < 500 else "Billing is unavailable, please retry"}, status


def _user() -> str:
    return user_of(request.headers.get("authorization")) or abort(401)


if __name__ == "__main__":
    app.run(port=int(os.environ.get("PORT", "8001")), threaded=True)
