from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace as Object
from typing import Any

import pytest

from tokentill import Usage, ValidationError, count_deltas, read_usage
from tokentill.usage import Meter


@dataclass
class Result:
    text: str
    input_token: int
    output_token: int
    model: str | None = None


@pytest.mark.parametrize(
    ("result", "usage"),
    [
        ({"input_token": 3, "output_token": 4, "model": "gemini-pro"}, Usage(3, 4, "gemini-pro")),
        ({"output_token": 4}, Usage(0, 4)),
        ({"input_token": None, "output_token": 4}, Usage(0, 4)),
        (Result("x", 3, 4, "m"), Usage(3, 4, "m")),
        (Object(input_token=3, output_token=4), Usage(3, 4)),
        (
            {"model": "gpt", "usage": {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}},
            Usage(3, 4, "gpt", so_far=True),
        ),
        (
            Object(model="gpt", usage=Object(input_tokens=3, output_tokens=4)),
            Usage(3, 4, "gpt", so_far=True),
        ),
        (
            Object(
                model="claude",
                usage=Object(
                    input_tokens=3,
                    output_tokens=4,
                    cache_creation_input_tokens=None,
                    cache_read_input_tokens=20,
                ),
            ),
            Usage(23, 4, "claude", so_far=True),
        ),
        # Anthropic's first stream event, OpenAI's last one of a streamed response.
        (
            Object(
                type="message_start",
                message=Object(model="claude", usage=Object(input_tokens=3, output_tokens=1)),
            ),
            Usage(3, 1, "claude", so_far=True),
        ),
        (
            {
                "type": "response.completed",
                "response": {"model": "gpt", "usage": {"input_tokens": 3, "output_tokens": 4}},
            },
            Usage(3, 4, "gpt", so_far=True),
        ),
        (
            {
                "modelVersion": "gemini",
                "usageMetadata": {"promptTokenCount": 3, "candidatesTokenCount": 4, "thoughtsTokenCount": 5},
            },
            Usage(3, 9, "gemini", so_far=True),
        ),
        (
            Object(
                model_version="gemini", usage_metadata=Object(prompt_token_count=3, candidates_token_count=4)
            ),
            Usage(3, 4, "gemini", so_far=True),
        ),
    ],
)
def test_usage_is_found(result: Any, usage: Usage) -> None:
    assert read_usage(result) == usage


@pytest.mark.parametrize(
    "result", [None, "text", b"bytes", 7, [], {}, {"data": 1}, {"usage": None}, object()]
)
def test_what_says_nothing_is_free(result: Any) -> None:
    assert read_usage(result) is None


@pytest.mark.parametrize(
    "result", [{"output_token": -1}, {"output_token": 1.5}, {"usage": {"output_tokens": "many"}}]
)
def test_unreadable_usage_is_an_error(result: Any) -> None:
    with pytest.raises(ValidationError):
        read_usage(result)


def meter(chunks: list[Any], **options: Any) -> tuple[int, int, str | None]:
    meter = Meter(**options)
    for chunk in chunks:
        meter.read(chunk)
    return meter.input_token, meter.output_token, meter.model


def test_chunks_are_added_up() -> None:
    assert meter([{"input_token": 5}, {"output_token": 10, "model": "m"}, "text", {"output_token": 10}]) == (
        5,
        20,
        "m",
    )


def test_a_providers_totals_are_not_added_up() -> None:
    anthropic = [
        Object(
            type="message_start",
            message=Object(model="claude", usage=Object(input_tokens=25, output_tokens=1)),
        ),
        Object(type="content_block_delta", delta=Object(text="Hi")),
        Object(type="message_delta", usage=Object(input_tokens=25, output_tokens=15)),
    ]
    assert meter(anthropic) == (25, 15, "claude")


def openai_chunk(text: str | None, usage: dict[str, int] | None = None) -> dict[str, Any]:
    choices = [] if text is None else [{"delta": {"content": text}}]
    return {"model": "gpt", "choices": choices, "usage": usage}


def test_deltas_count_until_the_usage_is_reported() -> None:
    flowing = [openai_chunk("a"), openai_chunk("b"), openai_chunk("")]
    last = openai_chunk(None, {"prompt_tokens": 9, "completion_tokens": 4})
    assert meter(flowing, extractor=count_deltas) == (0, 2, "gpt")
    assert meter([*flowing, last], extractor=count_deltas) == (9, 4, "gpt")


def test_an_extractor_may_answer_a_mapping_or_nothing() -> None:
    def words(chunk: str) -> dict[str, int] | None:
        return {"output_token": len(chunk.split())} if chunk else None

    assert meter(["two words", "", "three more words"], extractor=words) == (0, 5, None)
