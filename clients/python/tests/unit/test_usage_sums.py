"""Adding up a run: increments, totals, several answers, streams that are left early, and what is missing."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace as Object
from typing import Any

import pytest

from tests.unit.answers import ANTHROPIC, chunk, openai
from tokentill import (
    Usage,
    UsageMissingError,
    UsageUnreadableError,
    ValidationError,
    count_deltas,
    read_usage,
)
from tokentill.usage import Meter, Settled


def run(chunks: list[Any], *, extractor: Any = None, **how: Any) -> Settled:
    """What a stream of these chunks is billed for."""
    meter = Meter(extractor)
    for each in chunks:
        meter.read_chunk(each)
    return meter.settle(**how)


def amounts(settled: Settled) -> tuple[int, int]:
    assert settled.error is None, settled.error
    return settled.used.input_token, settled.used.output_token


def whole(*results: Any) -> Settled:
    meter = Meter()
    for result in results:
        meter.read(result)
    return meter.settle()


def test_several_answers_are_added_up() -> None:
    by_id = [{"id": f"c-{n}", "object": "chat.completion", "usage": openai(100, 40)} for n in range(3)]
    assert amounts(whole(*by_id)) == (300, 120)
    assert whole(*by_id).used.requests == 3
    assert amounts(whole(by_id)) == (300, 120), "a list of them"
    assert amounts(whole(tuple(by_id))) == (300, 120)
    assert amounts(whole([by_id[0], [by_id[1], ("text", by_id[2])]])) == (300, 120)
    bare = {"usage": openai(100, 40)}
    assert amounts(whole(bare, bare, bare)) == (300, 120), "without an id each whole result is an answer"
    assert amounts(whole([bare, bare, bare])) == (300, 120)
    own = {"input_token": 100, "output_token": 40}
    assert amounts(whole(own, own, own)) == (300, 120)
    assert amounts(whole([own, own], own)) == (300, 120)


def test_the_same_answer_is_counted_once() -> None:
    answer = {"id": "c-1", "object": "chat.completion", "usage": openai(100, 40)}
    assert amounts(whole(answer, answer)) == (100, 40)
    assert amounts(run([chunk("a"), chunk(None, openai(9, 4)), chunk(None, openai(9, 4))])) == (9, 4)


def test_a_loop_that_streams_two_completions_is_billed_for_both() -> None:
    first = [chunk("a", answer_id="c-1"), chunk(None, openai(10, 20), answer_id="c-1")]
    second = [chunk("b", answer_id="c-2"), chunk(None, openai(30, 40), answer_id="c-2")]
    assert amounts(run(first + second)) == (40, 60)
    assert run(first + second).used.requests == 2
    interleaved = [first[0], second[0], first[1], second[1]]
    assert amounts(run(interleaved)) == (40, 60)
    nameless = [{**each, "id": None} for each in first + second]
    assert amounts(run(nameless)) == (40, 60), "the chunk without choices is an answer's last"


def test_a_boundary_tells_answers_without_ids_apart() -> None:
    report = {"usage": {"prompt_tokens": 10, "completion_tokens": 5}}
    assert amounts(run([report, report])) == (10, 5), "the latest total of one answer"
    meter = Meter()
    meter.read_chunk(report)
    meter.next_answer()
    meter.read_chunk(report)
    assert amounts(meter.settle()) == (20, 10)
    assert meter.settle().used.requests == 2


def test_increments_are_added_and_totals_are_not() -> None:
    def piece(kind: str) -> Any:
        report = {"input_tokens": 0, "output_tokens": 1, "total_tokens": 1}
        return Object(type=kind, id="run-1", content="x", usage_metadata=report)

    assert amounts(run([piece("AIMessageChunk")] * 40)) == (0, 40)
    assert amounts(run([piece("ai")] * 40)) == (0, 1)
    gemini = [
        {
            "responseId": "g",
            "usageMetadata": {"promptTokenCount": 10, "candidatesTokenCount": n, "totalTokenCount": 10 + n},
        }
        for n in (3, 7, 12)
    ]
    assert amounts(run(gemini)) == (10, 12)


def test_the_latest_total_counts_also_when_it_is_smaller() -> None:
    reports = [{"id": "x", "usage": {"input_tokens": 10, "output_tokens": count}} for count in (5, 9, 7)]
    assert amounts(run(reports)) == (10, 7)


@pytest.mark.parametrize("final", [0, 30, 50])
def test_a_final_total_beats_any_count_of_pieces(final: int) -> None:
    pieces = [chunk("x")] * 40
    assert amounts(run([*pieces, chunk(None, openai(9, final))], extractor=count_deltas)) == (9, final)
    own = [{"output_token": 1}] * 40
    assert amounts(run([*own, {"usage": openai(9, final)}])) == (9, final)
    custom: Any = lambda each: Usage(output_token=1) if each.get("choices") else read_usage(each)  # noqa: E731
    assert amounts(run([*pieces, chunk(None, openai(9, final))], extractor=custom)) == (9, final)


def test_a_total_without_its_parts_replaces_them_too() -> None:
    settled = run(
        [
            {"id": "x", "usage": {"input_tokens": 5, "output_tokens": 1, "cache_read_input_tokens": 95}},
            {"id": "x", "usage": {"input_tokens": 20, "output_tokens": 9}},
        ]
    )
    assert amounts(settled) == (20, 9)
    assert settled.used.cached_input_token == 0


ANTHROPIC_STREAM: list[dict[str, Any]] = [
    {
        "type": "message_start",
        "message": {"id": "m", "model": "claude", "usage": {"input_tokens": 25, "output_tokens": 1}},
    },
    {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
    *[{"type": "content_block_delta", "delta": {"type": "text_delta", "text": "x"}}] * 6,
    {"type": "content_block_stop", "index": 0},
    {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 15}},
    {"type": "message_stop"},
]


def test_anthropics_stream_counts_its_last_total_or_else_what_flowed() -> None:
    assert amounts(run(ANTHROPIC_STREAM)) == (25, 15)
    assert amounts(run(ANTHROPIC_STREAM[:6], left_early=True)) == (25, 4)
    assert amounts(run(ANTHROPIC_STREAM[:2], left_early=True)) == (25, 1)
    broken_off = run(ANTHROPIC_STREAM[:6])
    assert isinstance(broken_off.error, UsageMissingError)
    assert not broken_off.used.any
    assert amounts(run(ANTHROPIC_STREAM[:6], extractor=count_deltas)) == (25, 4)


def test_anthropics_events_that_are_read_by_hand_are_one_answer() -> None:
    assert amounts(whole(*ANTHROPIC_STREAM)) == (25, 15)
    again = {**ANTHROPIC_STREAM[0], "message": {**ANTHROPIC_STREAM[0]["message"], "id": "n"}}
    assert amounts(whole(*ANTHROPIC_STREAM, again, *ANTHROPIC_STREAM[1:])) == (50, 30)


def test_the_parts_anthropic_reports_at_the_start_stay() -> None:
    start = {"type": "message_start", "message": {**ANTHROPIC, "id": "m"}}
    settled = run([start, *ANTHROPIC_STREAM[1:]])
    assert amounts(settled) == (28, 15)
    assert (settled.used.cached_input_token, settled.used.cache_write_token) == (20, 5)


RESPONSES_STREAM = [
    {"type": "response.created", "response": {"id": "r-1", "model": "gpt", "usage": None}},
    *[{"type": "response.output_text.delta", "item_id": "i", "delta": "x"}] * 5,
    {"type": "response.output_text.done", "text": "xxxxx"},
    {
        "type": "response.completed",
        "response": {
            "id": "r-1",
            "model": "gpt",
            "usage": {"input_tokens": 9, "output_tokens": 7, "total_tokens": 16},
        },
    },
]


@pytest.mark.parametrize(
    ("stream", "left", "billed", "billed_left"),
    [
        pytest.param([*[chunk("x")] * 5, chunk(None, openai(9, 7))], 4, (9, 7), (0, 4), id="openai"),
        pytest.param(RESPONSES_STREAM, 4, (9, 7), (0, 3), id="responses"),
        pytest.param(
            [
                *[{"model": "llama", "message": {"content": "x"}, "done": False}] * 5,
                {
                    "model": "llama",
                    "message": {"content": ""},
                    "done": True,
                    "prompt_eval_count": 9,
                    "eval_count": 7,
                },
            ],
            4,
            (9, 7),
            (0, 4),
            id="ollama",
        ),
        pytest.param(
            [
                {"messageStart": {"role": "assistant"}},
                *[{"contentBlockDelta": {"delta": {"text": "x"}}}] * 5,
                {"messageStop": {"stopReason": "end_turn"}},
                {"metadata": {"usage": {"inputTokens": 9, "outputTokens": 7, "totalTokens": 16}}},
            ],
            4,
            (9, 7),
            (0, 3),
            id="bedrock",
        ),
        pytest.param(
            [
                *[{"type": "text-delta", "id": "0", "text": "x"}] * 5,
                {
                    "type": "finish-step",
                    "response": {"id": "s-1"},
                    "usage": {"inputTokens": 9, "outputTokens": 7, "totalTokens": 16},
                },
                {"type": "finish", "totalUsage": {"inputTokens": 9, "outputTokens": 7, "totalTokens": 16}},
            ],
            4,
            (9, 7),
            (0, 4),
            id="ai-sdk",
        ),
    ],
)
def test_a_stream_left_early_counts_its_pieces(
    stream: list[Any], left: int, billed: tuple[int, int], billed_left: tuple[int, int]
) -> None:
    assert amounts(run(stream)) == billed
    assert amounts(run(stream[:left], left_early=True)) == billed_left
    assert amounts(run([*stream, *stream[:left]], left_early=True))[1] >= billed[1]


@pytest.mark.parametrize("stream", [[chunk("x")] * 5, RESPONSES_STREAM[:-1]])
def test_a_models_stream_without_usage_is_not_billed_as_nothing(stream: list[Any]) -> None:
    settled = run(stream)
    assert not settled.used.any
    assert isinstance(settled.error, UsageMissingError)
    [seen] = settled.error.seen
    assert (seen["pieces"], seen["model"]) == (5, "gpt")
    assert amounts(run(stream, extractor=count_deltas)) == (0, 5)


def test_an_answer_without_usage_is_missing_beside_those_that_have_it() -> None:
    settled = whole(
        {"id": "c-1", "object": "chat.completion", "usage": openai(100, 40)},
        {"id": "c-2", "object": "chat.completion", "usage": None},
    )
    assert (settled.used.input_token, settled.used.output_token) == (100, 40)
    assert isinstance(settled.error, UsageMissingError)
    assert [seen["answer_id"] for seen in settled.error.seen] == ["c-2"]


def test_a_stream_of_text_says_by_itself_nothing() -> None:
    assert isinstance(run(["a", "b"]).error, UsageMissingError)
    assert run([{"row": 1}, {"row": 2}]).error is None
    assert amounts(
        run(["two words", "three more words"], extractor=lambda text: {"output_token": len(text.split())})
    ) == (0, 5)


def test_nothing_said_is_an_error_only_where_usage_is_required() -> None:
    assert whole({"data": 1}).error is None
    meter = Meter()
    meter.read({"data": 1})
    assert isinstance(meter.settle(required=True).error, UsageMissingError)
    said = Meter()
    said.read({"output_token": 0})
    assert said.settle(required=True).error is None, "the feature said so"


def test_zeros_before_the_end_are_no_answer() -> None:
    zeros = openai(0, 0)
    stream = [{**chunk("x"), "usage": zeros}] * 5
    assert amounts(run(stream, left_early=True)) == (0, 5)
    assert amounts(run([*stream, chunk(None, openai(9, 4))])) == (9, 4)


def test_an_extractor_replaces_our_reading_and_keeps_the_answers_apart() -> None:
    def double(answer: Any) -> Usage:
        usage = read_usage(answer)
        assert usage is not None
        assert usage.output_token is not None
        return Usage(output_token=usage.output_token * 2, kind="total")

    meter = Meter(double)
    for answer_id in ("c-1", "c-2", "c-2"):
        meter.read({"id": answer_id, "object": "chat.completion", "usage": openai(9, 4)})
    assert amounts(meter.settle()) == (0, 16)


def test_an_extractor_that_fails_or_answers_nonsense_is_told() -> None:
    for extractor in (
        lambda _: 1 / 0,
        lambda _: 7,
        lambda _: {"output_token": "x"},
        lambda _: Usage(1, 1, 2),
    ):
        settled = run([{"data": 1}], extractor=extractor)
        assert isinstance(settled.error, UsageUnreadableError)


def test_what_a_generator_returns_is_about_all_of_it() -> None:
    meter = Meter()
    for each in [{"output_token": 4}, {"input_token": 2, "output_token": 4}]:
        meter.read_chunk(each)
    meter.read_return({"output_token": 6})
    assert amounts(meter.settle()) == (2, 6)


def test_what_a_feature_uses_beside_its_answers_is_added() -> None:
    meter = Meter()
    meter.use(Usage(input_token=5, cached_input_token=2, model="embed"))
    meter.read({"id": "c-1", "object": "chat.completion", "model": "gpt", "usage": openai(100, 40)})
    settled = meter.settle()
    assert amounts(settled) == (105, 40)
    assert (settled.used.cached_input_token, settled.used.model) == (2, "gpt")
    with pytest.raises(ValidationError):
        meter.use(Usage(output_token=-1))


def test_a_result_that_was_read_and_then_returned_counts_once() -> None:
    answer = {"usage": openai(100, 40)}
    meter = Meter()
    meter.read(answer)
    meter.read_result(answer)
    assert amounts(meter.settle()) == (100, 40)


def test_a_chunk_that_was_read_and_then_passed_on_counts_once() -> None:
    for chunks, billed in (([chunk("a"), chunk("b")], 2), ([{"output_token": 5}, {"output_token": 2}], 7)):
        meter = Meter()
        for each in chunks:
            meter.read(each)
            meter.read_chunk(each)
        assert amounts(meter.settle(left_early=True)) == (0, billed)


def test_the_usage_alone_may_be_handed_on() -> None:
    assert amounts(whole(openai(100, 40), Object(input_tokens=1, output_tokens=2))) == (101, 42)


def test_a_part_is_never_more_than_a_whole_that_the_feature_said() -> None:
    meter = Meter()
    meter.read_chunk({"id": "c", "usage": openai(9, 8, completion_tokens_details={"reasoning_tokens": 7})})
    meter.read_return({"output_token": 5})
    settled = meter.settle()
    assert amounts(settled) == (9, 5)
    assert settled.used.reasoning_token == 5


def test_geminis_latest_total_counts_also_without_a_reason_to_finish() -> None:
    def piece(count: int) -> dict[str, Any]:
        report = {"promptTokenCount": 10, "candidatesTokenCount": count, "totalTokenCount": 10 + count}
        return {"candidates": [{"content": {"parts": [{"text": "x"}]}}], "usageMetadata": report}

    assert amounts(run([piece(3), piece(7)])) == (10, 7)
    assert amounts(whole(piece(3), piece(7))) == (10, 7), "chunks without an id, handed on one by one"


def test_the_input_of_anthropics_last_event_counts_only_where_it_is_more() -> None:
    start = {"type": "message_start", "message": {**ANTHROPIC, "id": "m"}}
    for said, billed in ((0, 28), (3, 28), (40, 40)):
        delta = {"type": "message_delta", "usage": {"input_tokens": said, "output_tokens": 9}}
        assert amounts(run([start, delta])) == (billed, 9)


def test_embeddings_that_report_their_total_only() -> None:
    answer = {"object": "list", "data": [{"embedding": [0.5]}], "usage": {"total_tokens": 8}}
    assert amounts(whole(answer)) == (8, 0)


def test_text_counts_by_its_pieces_where_that_is_asked_for() -> None:
    assert amounts(run(["a", "", b"b"], extractor=count_deltas)) == (0, 2)
    assert count_deltas("") is None


def test_results_that_were_read_and_then_returned_in_a_list_count_once() -> None:
    answers = [{"usage": openai(100, 40)}, {"input_token": 1, "output_token": 2}]
    meter = Meter()
    for answer in answers:
        meter.read(answer)
    meter.read_result([*answers, {"output_token": 3}])
    assert amounts(meter.settle()) == (101, 45)
    listed = Meter()
    listed.read(answers)
    listed.read_result(answers[0])
    assert amounts(listed.settle()) == (101, 42)


def test_many_results_without_an_id_that_were_read_and_then_returned_count_once() -> None:
    answers = [{"input_token": 1, "output_token": 2} for _ in range(500)]
    meter = Meter()
    for answer in answers:
        meter.read(answer)
    meter.read_result(answers)
    assert amounts(meter.settle()) == (500, 1000)


def test_the_usage_object_of_an_answer_that_was_read_counts_once() -> None:
    answer = Object(id="c-1", object="chat.completion", usage=Object(**openai(100, 40)))
    meter = Meter()
    meter.read(answer)
    meter.read_result({"text": "...", "usage": answer.usage})
    assert amounts(meter.settle()) == (100, 40)


def test_what_a_feature_says_counts_also_beside_an_answer_without_usage() -> None:
    meter = Meter()
    meter.read_chunk(chunk("x"))
    meter.use(Usage(output_token=7))
    settled = meter.settle()
    assert settled.used.output_token == 7
    assert isinstance(settled.error, UsageMissingError)


def test_threads_that_work_for_one_run_lose_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def add_slowly(counts: dict[str, int], usage: Usage) -> None:
        before = dict(counts)
        time.sleep(0.001)
        counts["output_token"] = before.get("output_token", 0) + (usage.output_token or 0)

    monkeypatch.setattr("tokentill.usage.meter.add", add_slowly)
    meter = Meter()
    threads = [
        threading.Thread(target=lambda: [meter.use(Usage(output_token=1)) for _ in range(5)])
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert amounts(meter.settle()) == (0, 20)
