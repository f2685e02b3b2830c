"""A worker whose task is billed; its client is made in the parent of the processes that use it."""

from __future__ import annotations

import os

import celery

from tokentill import TokenProcess, with_token_process

folder = os.environ["QUEUE_FOLDER"]
client = TokenProcess(timeout_seconds=0.3, total_timeout_seconds=0.3)
app = celery.Celery("service", broker="filesystem://", backend=f"file://{folder}/results")
app.conf.broker_transport_options = {
    "data_folder_in": f"{folder}/queue",
    "data_folder_out": f"{folder}/queue",
    "control_folder": f"{folder}/control",
}


@with_token_process(feature_endpoint_id="f", user_id="u", client=client)
def summarise(text: str) -> dict[str, int]:
    return {"words": len(text.split()), "output_token": 40}


app.task(summarise, name="summarise")
