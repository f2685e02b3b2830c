"""Answers inside of something else, and the reports that providers hide in odd places, as plain data."""

from __future__ import annotations

import json
from dataclasses import dataclass
from types import SimpleNamespace as Object
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict

from tests.unit.answers import ANTHROPIC, ANTHROPIC_COUNTS, INTERACTION_USAGE, chunk, openai
from tests.unit.test_usage_sums import amounts, run, whole
from tokentill import UsageMissingError, UsageUnreadableError, read_usage

ANSWER = {"id": "c-1", "object": "chat.completion", "model": "gpt", "usage": openai(100, 40)}
MESSAGE = Object(
    type="ai", id="r-1", usage_metadata={"input_tokens": 100, "output_tokens": 40, "total_tokens": 140}
)
GEMINI = {
    "responseId": "g-1",
    "modelVersion": "gemini",
    "usageMetadata": {"promptTokenCount": 100, "candidatesTokenCount": 40, "totalTokenCount": 140},
}
INTERACTION = {"id": "i-1", "object": "interaction", "model": "gemini", "usage": INTERACTION_USAGE}


@dataclass
class Told:
    text: str
    answer: Any


@pytest.mark.parametrize(
    "value",
    [
        pytest.param({"text": "...", "raw": ANSWER}, id="a mapping"),
        pytest.param(Told("...", ANSWER), id="a dataclass"),
        pytest.param({"raw": MESSAGE, "parsed": {}, "parsing_error": None}, id="langchain-include-raw"),
        pytest.param({"text": "...", "tokens": openai(100, 40)}, id="a bare usage"),
        pytest.param(
            {"id": "batch_req_1", "custom_id": "1", "response": {"status_code": 200, "body": ANSWER}},
            id="openai-batch",
        ),
        pytest.param({"response": GEMINI}, id="gemini-batch"),
        pytest.param({"event": "thread.run.completed", "data": {**ANSWER, "object": "thread.run"}}, id="run"),
        pytest.param({"a": ANSWER}.values(), id="a view"),
        pytest.param(INTERACTION, id="gemini-interaction"),
        pytest.param({"event_type": "interaction.completed", "interaction": INTERACTION}, id="its event"),
        pytest.param(
            {"usage": {"billed_units": {"input_tokens": 100, "output_tokens": 40}, "tokens": {}}}, id="cohere"
        ),
        pytest.param(
            {
                "type": "message-end",
                "delta": {"usage": {"tokens": {"input_tokens": 100, "output_tokens": 40}}},
            },
            id="cohere-event",
        ),
        pytest.param(
            {
                "type": "response.done",
                "response": {"id": "r", "usage": {"input_tokens": 100, "output_tokens": 40}},
            },
            id="openai-realtime",
        ),
    ],
)
def test_an_answer_inside_is_counted(value: Any) -> None:
    assert amounts(whole(value)) == (100, 40)
    assert amounts(run([value])) == (100, 40)


def test_a_batch_of_anthropics() -> None:
    lines = [
        {"custom_id": "1", "result": {"type": "succeeded", "message": ANTHROPIC}},
        {"custom_id": "2", "result": {"type": "errored", "error": {"type": "error"}}},
    ]
    usage = read_usage(lines)
    assert usage is not None
    assert (usage.input_token, usage.output_token) == (
        ANTHROPIC_COUNTS["input_token"],
        ANTHROPIC_COUNTS["output_token"],
    )
    assert run(lines).error is None


def test_events_as_bytes_and_in_an_object() -> None:
    events = [
        {"type": "message_start", "message": {**ANTHROPIC, "usage": {"input_tokens": 9, "output_tokens": 1}}},
        {"type": "message_delta", "usage": {"output_tokens": 7}},
    ]
    assert amounts(run([{"chunk": {"bytes": json.dumps(event).encode()}} for event in events])) == (9, 7)
    mistral = [{"data": chunk("x")}, {"data": {**chunk(""), "usage": openai(9, 7)}}]
    assert amounts(run(mistral)) == (9, 7)


@pytest.mark.parametrize(
    "value",
    [{"messages": [Object(type="human"), MESSAGE]}, {"agent": {"messages": [MESSAGE]}}, Told("", [ANSWER])],
)
def test_answers_in_a_list_inside_may_be_old_and_are_told(value: Any) -> None:
    settled = whole(value)
    assert not settled.used.any
    assert isinstance(settled.error, UsageMissingError)
    [seen] = settled.error.seen
    assert "run.read" in seen["why"]
    assert "40" in json.dumps(seen["usage"])


@pytest.mark.parametrize(
    "value",
    [
        {"account": {"usage": {"input_tokens": 5, "output_tokens": 3}}},
        {"event": "page.viewed", "data": {"usage": 7}},
        {"rows": [{"type": "ai"}], "custom_id": "7"},
        {"embeddings": []},
    ],
)
def test_what_only_looks_alike_says_nothing(value: Any) -> None:
    assert read_usage(value) is None
    assert whole(value).error is None


@pytest.mark.parametrize("where", ["thoughtsTokenCount", "toolUsePromptTokenCount"])
def test_gemini_counts_a_part_without_its_whole(where: str) -> None:
    known = "promptTokenCount" if where == "thoughtsTokenCount" else "candidatesTokenCount"
    report = {known: 10, where: 90, "totalTokenCount": 100}
    usage = read_usage({"candidates": [{"finishReason": "MAX_TOKENS"}], "usageMetadata": report})
    assert usage is not None
    expected = (10, 90, 90) if where == "thoughtsTokenCount" else (90, 10, None)
    assert (usage.input_token, usage.output_token, usage.reasoning_token) == expected


def test_embeddings_of_gemini() -> None:
    texts = [Object(values=[0.5], statistics=Object(token_count=count)) for count in (3.0, 5.0)]
    assert amounts(whole(Object(embeddings=texts))) == (8, 0)
    assert isinstance(whole({"embeddings": [{"values": [0.5]}]}).error, UsageMissingError)


def test_embeddings_of_cohere() -> None:
    units = {"input_tokens": 8}
    assert amounts(whole({"id": "e-1", "meta": {"billed_units": units}, "embeddings": [[0.5]]})) == (8, 0)


def test_anthropic_counts_a_compaction_beside_the_answer() -> None:
    compaction = {"type": "compaction", "input_tokens": 180, "output_tokens": 3}
    answer = {"type": "message", "input_tokens": 23, "output_tokens": 10}
    report = {"input_tokens": 23, "output_tokens": 10, "iterations": [compaction, answer]}
    assert amounts(whole({**ANTHROPIC, "usage": report})) == (203, 13)
    start = {"type": "message_start", "message": {**ANTHROPIC, "usage": {"input_tokens": 23}}}
    delta = {"type": "message_delta", "usage": {"output_tokens": 10, "iterations": [compaction, answer]}}
    assert amounts(run([start, delta])) == (203, 13)
    assert amounts(whole({**ANTHROPIC, "usage": {**report, "iterations": [answer]}})) == (23, 10)


def test_cached_input_of_openais_realtime() -> None:
    details = {"cached_tokens": 60, "audio_tokens": 0}
    usage = read_usage({"usage": {"input_tokens": 100, "output_tokens": 40, "input_token_details": details}})
    assert usage is not None
    assert usage.cached_input_token == 60


@pytest.mark.parametrize("output", [0, 5])
@pytest.mark.parametrize("where", ["usage", "x_groq"])
def test_counts_that_come_after_the_model_has_stopped_are_final(output: int, where: str) -> None:
    stop = {**chunk("x"), "choices": [{"delta": {}, "finish_reason": "stop"}]}
    report = openai(9, output)
    last = {**chunk(""), **({"usage": report} if where == "usage" else {"x_groq": {"usage": report}})}
    assert amounts(run([*[chunk("x")] * 20, stop, last])) == (9, output)


def test_an_answer_that_broke_off_is_billed_for_what_flowed() -> None:
    failed = {"type": "response.failed", "response": {"id": "r-1", "status": "failed", "usage": None}}
    piece = {"type": "response.output_text.delta", "delta": "x"}
    assert amounts(run([piece, piece, failed])) == (0, 2)


def test_a_transcription_left_early() -> None:
    piece = {"type": "transcript.text.delta", "delta": "x"}
    done = {"type": "transcript.text.done", "usage": {"input_tokens": 9, "output_tokens": 7}}
    assert amounts(run([piece, piece, done])) == (9, 7)
    assert amounts(run([piece, piece], left_early=True)) == (0, 2)
    assert isinstance(run([piece]).error, UsageMissingError)
    assert isinstance(whole({"usage": {"type": "duration", "seconds": 9.5}}).error, UsageUnreadableError), (
        "OpenAI bills whisper-1 by the second"
    )


def test_a_body_that_is_yet_to_be_read_is_told() -> None:
    class StreamingBody:
        """As botocore has it in what `invoke_model` answers."""

    assert isinstance(whole({"contentType": "json", "body": StreamingBody()}).error, UsageMissingError)


def test_fields_extras_and_properties_of_pydantic_models() -> None:
    report = {"prompt_tokens": 9, "completion_tokens": 7}

    class Extra(BaseModel):
        model_config = ConfigDict(extra="allow")

    class Computed(BaseModel):
        @property
        def usage(self) -> dict[str, int]:
            return report

    class Parsed(BaseModel):
        """As instructor answers it."""

        name: str
        _raw_response: Any = None

    parsed = Parsed(name="x")
    parsed._raw_response = ANSWER
    for value in (Extra(usage=report), Extra.model_construct(usage=report), Computed()):  # type: ignore[call-arg]
        assert amounts(whole(value)) == (9, 7)
    assert amounts(whole(parsed)) == (100, 40)
