"""Reading usage: every provider's shape as plain data, and the arithmetic of its parts."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace as Object
from typing import Any

import pytest

from tests.unit.answers import ANTHROPIC, ANTHROPIC_COUNTS, openai
from tokentill import (
    Usage,
    UsageUnreadableError,
    ValidationError,
    read_usage,
)
from tokentill.usage import Meter


@dataclass
class Result:
    text: str
    input_token: int
    output_token: int
    model: str | None = None


def counts(usage: Usage | None) -> dict[str, Any]:
    """What it says, without what it leaves open."""
    assert usage is not None
    return {name: value for name, value in vars(usage).items() if value is not None and name != "kind"}


@pytest.mark.parametrize(
    ("result", "said"),
    [
        (
            {"input_token": 3, "output_token": 4, "model": "m"},
            {"input_token": 3, "output_token": 4, "model": "m"},
        ),
        ({"output_token": 4}, {"output_token": 4}),
        ({"input_token": None, "output_token": 0}, {"output_token": 0}),
        ({"output_token": 4.0}, {"output_token": 4}),
        (Result("x", 3, 4, "m"), {"input_token": 3, "output_token": 4, "model": "m"}),
        (
            {"input_token": 9, "output_token": 4, "cached_input_token": 8, "reasoning_token": 4},
            {"input_token": 9, "output_token": 4, "cached_input_token": 8, "reasoning_token": 4},
        ),
    ],
)
def test_the_guides_words_are_increments(result: Any, said: dict[str, Any]) -> None:
    usage = read_usage(result)
    assert counts(usage) == said
    assert usage is not None
    assert usage.kind == "increment"


@pytest.mark.parametrize(
    ("result", "said"),
    [
        pytest.param(
            {"id": "c-1", "object": "chat.completion", "model": "gpt", "usage": openai(3, 4)},
            {"input_token": 3, "output_token": 4, "model": "gpt", "answer_id": "c-1", "final": True},
            id="openai-chat",
        ),
        pytest.param(
            Object(model="gpt", usage=Object(prompt_tokens=3, completion_tokens=4)),
            {"input_token": 3, "output_token": 4, "model": "gpt"},
            id="attributes",
        ),
        pytest.param(
            {
                "object": "list",
                "model": "embed",
                "data": [],
                "usage": {"prompt_tokens": 8, "total_tokens": 8},
            },
            {"input_token": 8, "model": "embed"},
            id="openai-embeddings",
        ),
        pytest.param(
            {
                "type": "response.completed",
                "response": {"id": "r-1", "model": "gpt", "usage": {"input_tokens": 3, "output_tokens": 4}},
            },
            {"input_token": 3, "output_token": 4, "model": "gpt", "answer_id": "r-1", "final": True},
            id="openai-responses-event",
        ),
        pytest.param(
            {
                "id": "r-1",
                "object": "response",
                "model": "gpt",
                "usage": {
                    "input_tokens": 9,
                    "output_tokens": 4,
                    "total_tokens": 13,
                    "input_tokens_details": {"cached_tokens": 6, "cache_write_tokens": 2},
                    "output_tokens_details": {"reasoning_tokens": 3},
                },
            },
            {
                "input_token": 9,
                "output_token": 4,
                "cached_input_token": 6,
                "cache_write_token": 2,
                "reasoning_token": 3,
                "model": "gpt",
                "answer_id": "r-1",
                "final": True,
            },
            id="openai-responses",
        ),
        pytest.param(
            ANTHROPIC,
            {**ANTHROPIC_COUNTS, "model": "claude", "answer_id": "msg-1", "final": True},
            id="anthropic",
        ),
        pytest.param(
            Object(
                type="message_start",
                message=Object(id="msg-1", model="claude", usage=Object(input_tokens=3, output_tokens=1)),
            ),
            {"input_token": 3, "output_token": 1, "model": "claude", "answer_id": "msg-1", "final": False},
            id="anthropic-message-start",
        ),
        pytest.param(
            {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 15}},
            {"output_token": 15},
            id="anthropic-message-delta",
        ),
        pytest.param(
            {
                "responseId": "g-1",
                "modelVersion": "gemini",
                "candidates": [{"finishReason": "STOP"}],
                "usageMetadata": {
                    "promptTokenCount": 10,
                    "cachedContentTokenCount": 6,
                    "candidatesTokenCount": 4,
                    "thoughtsTokenCount": 5,
                    "toolUsePromptTokenCount": 7,
                    "totalTokenCount": 26,
                },
            },
            {
                "input_token": 17,
                "output_token": 9,
                "cached_input_token": 6,
                "reasoning_token": 5,
                "model": "gemini",
                "answer_id": "g-1",
                "final": True,
            },
            id="gemini",
        ),
        pytest.param(
            Object(
                model_version="gemini", usage_metadata=Object(prompt_token_count=3, candidates_token_count=4)
            ),
            {"input_token": 3, "output_token": 4, "model": "gemini"},
            id="gemini-attributes",
        ),
        pytest.param(
            {
                "model": "llama",
                "message": {"content": ""},
                "done": True,
                "prompt_eval_count": 3,
                "eval_count": 4,
            },
            {"input_token": 3, "output_token": 4, "model": "llama", "final": True},
            id="ollama",
        ),
        pytest.param(
            {"model": "embed", "embeddings": [[0.5]], "prompt_eval_count": 3},
            {"input_token": 3, "model": "embed", "final": True},
            id="ollama-embeddings",
        ),
        pytest.param(
            {
                "ResponseMetadata": {"RequestId": "b-1"},
                "stopReason": "end_turn",
                "usage": {
                    "inputTokens": 3,
                    "outputTokens": 4,
                    "totalTokens": 32,
                    "cacheReadInputTokens": 20,
                    "cacheWriteInputTokens": 5,
                },
            },
            {
                "input_token": 28,
                "output_token": 4,
                "cached_input_token": 20,
                "cache_write_token": 5,
                "answer_id": "b-1",
            },
            id="bedrock-converse",
        ),
        pytest.param(
            {"metadata": {"usage": {"inputTokens": 3, "outputTokens": 4, "totalTokens": 7}}},
            {"input_token": 3, "output_token": 4, "final": True},
            id="bedrock-stream",
        ),
        pytest.param(
            {"amazon-bedrock-invocationMetrics": {"inputTokenCount": 3, "outputTokenCount": 4}},
            {"input_token": 3, "output_token": 4, "final": True},
            id="bedrock-invoke-stream",
        ),
        pytest.param(
            {
                "text": "...",
                "usage": {"inputTokens": 1, "outputTokens": 1, "totalTokens": 2},
                "totalUsage": {
                    "inputTokens": 9,
                    "outputTokens": 4,
                    "totalTokens": 13,
                    "cachedInputTokens": 6,
                    "reasoningTokens": 3,
                },
                "response": {"id": "v-1", "modelId": "gpt"},
            },
            {
                "input_token": 9,
                "output_token": 4,
                "cached_input_token": 6,
                "reasoning_token": 3,
                "model": "gpt",
                "answer_id": "v-1",
                "final": True,
            },
            id="ai-sdk-result",
        ),
        pytest.param(
            {
                "usage": {
                    "inputTokens": {"total": 9, "noCache": 1, "cacheRead": 6, "cacheWrite": 2},
                    "outputTokens": {"total": 4, "text": 1, "reasoning": 3},
                }
            },
            {
                "input_token": 9,
                "output_token": 4,
                "cached_input_token": 6,
                "cache_write_token": 2,
                "reasoning_token": 3,
            },
            id="ai-sdk-provider",
        ),
    ],
)
def test_a_providers_usage_is_found(result: Any, said: dict[str, Any]) -> None:
    usage = read_usage(result)
    assert counts(usage) == said
    assert usage is not None
    assert usage.kind == "total"


def test_a_chunk_of_langchain_is_an_increment_and_its_message_a_total() -> None:
    report = {
        "input_tokens": 9,
        "output_tokens": 4,
        "total_tokens": 13,
        "input_token_details": {
            "cache_read": 5,
            "ephemeral_5m_input_tokens": 2,
            "ephemeral_1h_input_tokens": 1,
        },
        "output_token_details": {"reasoning": 3},
    }
    for kind, expected in (("AIMessageChunk", "increment"), ("ai", "total")):
        usage = read_usage(Object(type=kind, id="run-1", content="x", usage_metadata=report))
        assert usage is not None
        assert usage.kind == expected
        assert (usage.input_token, usage.cached_input_token, usage.cache_write_token) == (9, 5, 3)
        assert (usage.output_token, usage.reasoning_token) == (4, 3)


@pytest.mark.parametrize(
    ("report", "input_token", "output_token"),
    [
        # OpenAI: reasoning and cached input are inside.
        (
            openai(
                100,
                40,
                completion_tokens_details={"reasoning_tokens": 30},
                prompt_tokens_details={"cached_tokens": 60},
            ),
            100,
            40,
        ),
        # xAI: reasoning is beside, and the total says so.
        (
            {
                "prompt_tokens": 100,
                "completion_tokens": 40,
                "total_tokens": 170,
                "completion_tokens_details": {"reasoning_tokens": 30},
                "prompt_tokens_details": {"cached_tokens": 60},
            },
            100,
            70,
        ),
        # Cached input beside, for a provider that speaks OpenAI's words with Anthropic's sums.
        (
            {
                "prompt_tokens": 100,
                "completion_tokens": 40,
                "total_tokens": 200,
                "prompt_tokens_details": {"cached_tokens": 60},
            },
            160,
            40,
        ),
        # Both beside.
        (
            {
                "prompt_tokens": 100,
                "completion_tokens": 40,
                "total_tokens": 230,
                "completion_tokens_details": {"reasoning_tokens": 30},
                "prompt_tokens_details": {"cached_tokens": 60},
            },
            160,
            70,
        ),
        # More than its whole: it can't be inside, total or not.
        (
            {"prompt_tokens": 10, "completion_tokens": 4, "prompt_tokens_details": {"cached_tokens": 60}},
            70,
            4,
        ),
        # LiteLLM: both names for the same cached tokens, inside.
        (
            openai(100, 40, prompt_tokens_details={"cached_tokens": 60}, cache_read_input_tokens=60),
            100,
            40,
        ),
        (openai(100, 40, cache_read_input_tokens=60, cache_creation_input_tokens=10), 100, 40),
        # A total that nobody has set.
        ({"prompt_tokens": 100, "completion_tokens": 40, "total_tokens": 0}, 100, 40),
        # DeepSeek.
        (openai(100, 40, prompt_cache_hit_tokens=60, prompt_cache_miss_tokens=40), 100, 40),
        # Anthropic's names with a total that has the cache in its input.
        (
            {"input_tokens": 100, "output_tokens": 40, "cache_read_input_tokens": 60, "total_tokens": 140},
            100,
            40,
        ),
        # Gemini, thoughts inside or beside.
        (
            {
                "promptTokenCount": 10,
                "candidatesTokenCount": 9,
                "thoughtsTokenCount": 5,
                "totalTokenCount": 19,
            },
            10,
            9,
        ),
        (
            {
                "promptTokenCount": 10,
                "candidatesTokenCount": 9,
                "toolUsePromptTokenCount": 7,
                "totalTokenCount": 19,
            },
            10,
            9,
        ),
    ],
)
def test_a_part_stands_where_the_total_adds_up(report: Any, input_token: int, output_token: int) -> None:
    usage = read_usage({"usage": report})
    assert usage is not None
    assert (usage.input_token, usage.output_token) == (input_token, output_token)
    assert (usage.cached_input_token or 0) in {0, 60}
    assert usage.checked() == usage, "parts fit into their wholes"


@pytest.mark.parametrize(
    "result",
    [
        None,
        "text",
        b"bytes",
        7,
        [],
        {},
        {"data": 1},
        {"usage": None},
        object(),
        [0.5] * 9,
        {"output_token": None},
    ],
)
def test_what_says_nothing(result: Any) -> None:
    assert read_usage(result) is None


UNREADABLE = [
    {"output_token": -1},
    {"output_token": 1.5},
    {"output_token": float("nan")},
    {"output_token": float("inf")},
    {"output_token": "4"},
    {"output_token": True},
    {"input_token": 3, "cached_input_token": 4},
    {"usage": {}},
    {"usage": {"seconds": 9.5}},
    {"usage": "a lot"},
    {"usage": {"output_tokens": "many"}},
    {"usage": {"prompt_tokens": float("nan"), "completion_tokens": 4}},
    {"usage": {"prompt_tokens": 100, "completion_tokens": 40, "total_tokens": 141}},
    {"usageMetadata": {"promptTokenCount": 10, "candidatesTokenCount": 4, "totalTokenCount": 13}},
]


@pytest.mark.parametrize("result", UNREADABLE)
def test_unreadable_usage_is_an_error(result: Any) -> None:
    with pytest.raises(UsageUnreadableError) as caught:
        read_usage(result)
    assert isinstance(caught.value, ValidationError)


@pytest.mark.parametrize("result", UNREADABLE)
def test_unreadable_usage_is_told_with_what_was_seen(result: Any) -> None:
    meter = Meter()
    meter.read(result)
    settled = meter.settle()
    assert not settled.used.any
    assert isinstance(settled.error, UsageUnreadableError)
    [seen] = settled.error.seen
    assert seen["usage"] is not None
    assert "total" in seen["why"] or "count" in seen["why"] or "more than" in seen["why"]


def test_whatever_an_object_does_when_it_is_looked_at_reading_goes_on() -> None:
    class Row:
        @property
        def usage(self) -> Any:
            raise RuntimeError("no session to load it with")

        def input_token(self) -> int:
            return 7

    assert read_usage(Row()) is None

    class Table:
        """As of pandas or numpy: any of its fields may be a table again."""

        def __getattr__(self, name: str) -> Any:
            if name.startswith("__"):
                raise AttributeError(name)
            return Table()

        def __bool__(self) -> bool:
            raise ValueError("ambiguous")

    meter = Meter()
    odd = [
        {"type": ["a"], "object": {}, "choices": {}, "done": []},
        {"choices": [None, 7]},
        {"candidates": [1]},
    ]
    for value in [*odd, Table(), {"usage": Table()}, {"type": "ai", "usage_metadata": Table()}]:
        meter.read(value)
        meter.read_chunk(value)
    assert not meter.settle().used.any


def test_read_usage_adds_up_a_list() -> None:
    usage = read_usage([{"input_token": 3, "model": "m"}, (ANTHROPIC, "text")])
    assert counts(usage) == {**ANTHROPIC_COUNTS, "input_token": 31, "model": "claude"}
