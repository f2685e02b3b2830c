"""The real `litellm` package with its mock responses, billed on a Tokentill in memory."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Callable
from typing import Any

import litellm
import pytest
from tokentill import ConfigurationError, InsufficientTokensError, UsageMissingError
from tokentill.testing import MemoryTokentill

from tokentill_litellm import TokentillLogger

Told = list[tuple[Exception, dict[str, Any]]]

CALL: dict[str, Any] = {
    "model": "gpt-4o",
    "messages": [{"role": "user", "content": "Hi"}],
    "mock_response": "One two three four five six seven eight nine ten",
    "user": "ann",
}
# What LiteLLM's mock reports, whatever it says.
IN, OUT = 10, 20


def eventually(true: Callable[[], Any]) -> None:
    """LiteLLM tells of a success in a thread, or in a task of its own."""
    deadline = time.monotonic() + 10
    while not true():
        assert time.monotonic() < deadline, "it didn't come about"
        time.sleep(0.02)


async def eventually_async(true: Callable[[], Any]) -> None:
    for _ in range(500):
        if true():
            return
        await asyncio.sleep(0.02)
    pytest.fail("it didn't come about")


def settled(server: MemoryTokentill) -> bool:
    """A call came, and nothing is held any more."""
    return bool(server.calls) and not server.holds("ann")


def paths(server: MemoryTokentill) -> list[str]:
    return [call.path for call in server.calls]


async def test_a_call_is_started_with_a_hold_and_ended(
    logger: TokentillLogger, server: MemoryTokentill
) -> None:
    metadata: dict[str, Any] = {"request": 7}
    await litellm.acompletion(**CALL, metadata=metadata)
    await eventually_async(lambda: server.ends)
    [end] = server.ends
    assert (end.user_id, end.feature_endpoint_id, end.model) == ("ann", "chat", "gpt-4o")
    assert (end.input_token, end.output_token) == (IN, OUT)
    start = server.calls[0]
    assert start.body["hold_token"] == 100
    assert end.process_id == metadata["tokentill_process_id"]
    assert settled(server)
    assert paths(server) == ["start", "end"]


def test_an_event_that_a_closing_loop_drops_is_not_needed(
    logger: TokentillLogger, server: MemoryTokentill
) -> None:
    asyncio.run(litellm.acompletion(**CALL))
    assert [end.output_token for end in server.ends] == [OUT]


async def test_a_refused_call_is_not_made(logger: TokentillLogger, server: MemoryTokentill) -> None:
    server.add_wallet("poor", 50)
    with pytest.raises(InsufficientTokensError) as caught:
        await litellm.acompletion(**{**CALL, "user": "poor", "mock_response": Exception("it was made")})
    assert caught.value.token == 50
    assert paths(server) == ["start"]


async def test_a_stream_is_billed_at_its_end(logger: TokentillLogger, server: MemoryTokentill) -> None:
    stream = await litellm.acompletion(**CALL, stream=True)
    chunks = []
    async for chunk in stream:
        assert server.token("ann") == 900, "held meanwhile"
        chunks.append(chunk)
    whole = litellm.stream_chunk_builder(chunks, messages=CALL["messages"])
    assert [end.output_token for end in server.ends] == [whole.usage.completion_tokens]
    await stream.aclose()
    await asyncio.sleep(0.2)
    assert paths(server) == ["start", "end"]


async def test_a_stream_closed_early_is_billed_for_what_flowed(
    logger: TokentillLogger, server: MemoryTokentill
) -> None:
    stream = await litellm.acompletion(**CALL, stream=True)
    for _ in range(3):
        await anext(stream)
    await stream.aclose()
    await eventually_async(lambda: server.ends)
    assert server.ends[0].output_token == 3
    assert settled(server)


async def test_a_stream_that_is_dropped_is_billed_for_what_flowed(
    logger: TokentillLogger, server: MemoryTokentill
) -> None:
    stream = await litellm.acompletion(**CALL, stream=True)
    await anext(stream)
    await anext(stream)
    del stream
    gc.collect()
    await eventually_async(lambda: server.ends)
    assert server.ends[0].output_token == 2


async def test_a_cancelled_call_gives_its_hold_back(logger: TokentillLogger, server: MemoryTokentill) -> None:
    task = asyncio.create_task(litellm.acompletion(**CALL, mock_delay=30))
    await eventually_async(lambda: server.holds("ann"))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    del task
    gc.collect()
    await eventually_async(lambda: settled(server))
    assert paths(server) == ["start", "cancel"]


async def test_a_failed_call_gives_its_hold_back(logger: TokentillLogger, server: MemoryTokentill) -> None:
    with pytest.raises(litellm.InternalServerError):
        await litellm.acompletion(**{**CALL, "mock_response": Exception("boom")})
    await eventually_async(lambda: settled(server))
    assert server.ends == []
    assert paths(server) == ["start", "cancel"]


async def test_every_attempt_of_the_routers_is_a_run(
    logger: TokentillLogger, server: MemoryTokentill
) -> None:
    def deployment(name: str, response: str) -> dict[str, Any]:
        return {"model_name": name, "litellm_params": {"model": "gpt-4o", "mock_response": response}}

    router = litellm.Router(
        model_list=[deployment("first", "litellm.InternalServerError"), deployment("second", "Hello")],
        num_retries=1,
        fallbacks=[{"first": ["second"]}],
    )
    await router.acompletion(model="first", messages=CALL["messages"], user="ann")
    await eventually_async(lambda: server.ends and settled(server))
    assert paths(server).count("start") == 3
    assert paths(server).count("cancel") == 2
    assert len(server.ends) == 1


async def test_the_router_is_billed_and_does_not_retry_a_refusal(
    logger: TokentillLogger, server: MemoryTokentill
) -> None:
    server.add_wallet("poor", 0)
    deployment = {"model": "gpt-4o", "mock_response": "Hello"}
    router = litellm.Router(model_list=[{"model_name": "chat", "litellm_params": deployment}])
    call: dict[str, Any] = {"model": "chat", "messages": CALL["messages"]}
    await router.acompletion(**call, user="ann")
    await eventually_async(lambda: server.ends)
    assert server.ends[0].model == "gpt-4o"
    before = len(server.calls)
    with pytest.raises(InsufficientTokensError):
        await router.acompletion(**call, user="poor")
    assert len(server.calls) == before + 1
    await router.acompletion(**call, user="ann")
    await eventually_async(lambda: len(server.ends) == 2)


def falling_back(user: str) -> dict[str, Any]:
    # LiteLLM takes these apart.
    fallbacks = [{"model": "gpt-4o-mini", "mock_response": "Hello"}]
    return {**CALL, "user": user, "mock_response": Exception("boom"), "fallbacks": fallbacks}


# LiteLLM leaves tasks behind in the loops that it makes for plain calls.
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("way", ["asynchronous", "guarded", "plain"])
def test_a_call_with_fallbacks_is_billed_once_and_holds_once(
    way: str, logger: TokentillLogger, server: MemoryTokentill
) -> None:
    server.add_wallet("small", 150)
    call = falling_back("small")
    if way == "asynchronous":
        asyncio.run(litellm.acompletion(**call))
    else:
        answer = (logger.guard(litellm.completion) if way == "guarded" else litellm.completion)(**call)
        assert answer.choices, "kept meanwhile"
    eventually(lambda: server.ends)
    time.sleep(0.2)
    assert [end.model for end in server.ends] == ["gpt-4o-mini"]
    assert not server.holds("small")
    gc.collect()


def test_a_call_with_fallbacks_that_may_not_be_made(logger: TokentillLogger, server: MemoryTokentill) -> None:
    server.add_wallet("poor", 50)
    with pytest.raises(InsufficientTokensError):
        logger.guard(litellm.completion)(**falling_back("poor"))
    with pytest.raises(InsufficientTokensError):
        asyncio.run(litellm.acompletion(**falling_back("poor")))
    assert paths(server) == ["start", "start"]


async def test_embeddings(logger: TokentillLogger, server: MemoryTokentill) -> None:
    await litellm.aembedding(
        model="text-embedding-3-small",
        input="Hi",
        mock_response=[0.5],
        metadata={"tokentill_user_id": "bob", "tokentill_feature_endpoint_id": "search"},
    )
    await eventually_async(lambda: server.ends)
    [end] = server.ends
    assert (end.user_id, end.feature_endpoint_id) == ("bob", "search")
    assert (end.input_token, end.output_token) == (IN, 0)


async def test_many_calls_at_once(logger: TokentillLogger, server: MemoryTokentill) -> None:
    logger._who._hold_token = 1
    await asyncio.gather(*(litellm.acompletion(**{**CALL, "user": user}) for user in ["ann", "bob"] * 20))
    await eventually_async(lambda: len(server.ends) == 40)
    assert server.token("ann") == server.token("bob") == 1_000 - 20 * OUT // 4
    assert len({end.process_id for end in server.ends}) == 40


async def test_a_call_without_a_user_is_not_free(logger: TokentillLogger, server: MemoryTokentill) -> None:
    with pytest.raises(ConfigurationError, match="user"):
        await litellm.acompletion(**{**CALL, "user": None})
    assert server.calls == []


@pytest.mark.parametrize(
    "named",
    [
        {"metadata": {"user_id": "of-anthropic"}, "litellm_metadata": {"tokentill_user_id": "bob"}},
        {"metadata": {"user_id": "bob"}},
        {"litellm_params": {"metadata": {"user_api_key_user_id": "bob"}}},
    ],
)
def test_metadata_is_looked_for_wherever_a_kind_of_call_has_it(
    named: dict[str, Any], logger: TokentillLogger
) -> None:
    assert logger._who.find(named).user_id == "bob"


async def test_who_and_what_may_be_asked_for(server: MemoryTokentill) -> None:
    with server.client() as client:
        made = TokentillLogger(
            client=client,
            user_id=lambda call: call["metadata"]["tenant"],
            feature_endpoint_id=lambda call: "search" if "embedding" in call["model"] else "chat",
            hold_token=lambda call: len(call["messages"]),
            bills=lambda call: call["model"] != "gpt-4o-mini",
        )
        litellm.callbacks = [made]
        await litellm.acompletion(**CALL, metadata={"tenant": "bob"})
        await litellm.acompletion(**{**CALL, "model": "gpt-4o-mini"})
        await eventually_async(lambda: server.ends)
        await asyncio.sleep(0.2)
        assert [(end.user_id, end.feature_endpoint_id) for end in server.ends] == [("bob", "chat")]
        assert server.calls[0].body["hold_token"] == 1
        assert paths(server) == ["start", "end"]
        litellm.callbacks = []


async def test_an_answer_out_of_the_cache_is_free_unless_wanted(
    logger: TokentillLogger, server: MemoryTokentill
) -> None:
    # The event as it comes; the cache itself needs packages of LiteLLM's proxy.
    for bills, ends in ((False, 0), (True, 1)):
        logger._bill_cache_hits = bills
        await asyncio.to_thread(logger._start, f"call-{bills}", {"user": "ann"})
        event = {"litellm_call_id": f"call-{bills}", "call_type": "acompletion", "cache_hit": True}
        await logger.async_log_success_event(event, {"usage": {"prompt_tokens": 1, "completion_tokens": 4}})
        assert len(server.ends) == ends
        assert settled(server)


def test_a_plain_call(logger: TokentillLogger, server: MemoryTokentill) -> None:
    litellm.completion(**CALL)
    eventually(lambda: server.ends)
    assert (server.ends[0].input_token, server.ends[0].output_token) == (IN, OUT)
    assert server.ends[0].process_id is not None
    assert paths(server) == ["start", "end"]


def test_a_plain_stream(logger: TokentillLogger, server: MemoryTokentill) -> None:
    chunks = list(litellm.completion(**CALL, stream=True))
    whole = litellm.stream_chunk_builder(chunks, messages=CALL["messages"])
    assert [end.output_token for end in server.ends] == [whole.usage.completion_tokens]
    assert paths(server) == ["start", "end"]


def test_a_guarded_plain_call_is_refused_before_it_is_made(
    logger: TokentillLogger, server: MemoryTokentill
) -> None:
    server.add_wallet("poor", 0)
    completion = logger.guard(litellm.completion)
    with pytest.raises(InsufficientTokensError):
        completion(**{**CALL, "user": "poor", "mock_response": Exception("it was made")})
    assert paths(server) == ["start"]
    completion(**CALL)
    eventually(lambda: server.ends)
    assert paths(server) == ["start", "start", "end"]


def test_a_guarded_plain_call_with_positional_arguments(
    logger: TokentillLogger, server: MemoryTokentill
) -> None:
    given = {name: value for name, value in CALL.items() if name not in ("model", "messages")}
    logger.guard(litellm.completion)("gpt-4o", CALL["messages"], **given)
    eventually(lambda: server.ends)
    assert [(end.model, end.output_token) for end in server.ends] == [("gpt-4o", OUT)]


def test_a_guarded_plain_call_that_fails(logger: TokentillLogger, server: MemoryTokentill) -> None:
    with pytest.raises(litellm.InternalServerError):
        logger.guard(litellm.completion)(**{**CALL, "mock_response": Exception("boom")})
    eventually(lambda: settled(server))
    assert paths(server) == ["start", "cancel"]


@pytest.mark.parametrize("guarded", [True, False])
def test_a_plain_stream_closed_early(guarded: bool, logger: TokentillLogger, server: MemoryTokentill) -> None:
    completion = logger.guard(litellm.completion) if guarded else litellm.completion
    stream = completion(**CALL, stream=True)
    for _ in range(3):
        next(stream)
    stream.close()
    eventually(lambda: server.ends)
    assert server.ends[0].output_token == 3
    assert settled(server)


def test_a_guarded_plain_stream_that_is_dropped(logger: TokentillLogger, server: MemoryTokentill) -> None:
    stream = logger.guard(litellm.completion)(**CALL, stream=True)
    next(stream)
    del stream
    gc.collect()
    eventually(lambda: server.ends)
    assert server.ends[0].output_token == 1


def test_an_unguarded_plain_call_that_may_not_be_made_is_billed_all_the_same(
    logger: TokentillLogger, server: MemoryTokentill, caplog: pytest.LogCaptureFixture
) -> None:
    server.add_wallet("poor", 0)
    litellm.completion(**{**CALL, "user": "poor"})
    eventually(lambda: server.ends)
    assert server.debt("poor") == OUT / 4
    assert "may not be made" in caplog.text


def test_plain_embeddings_of_which_nothing_is_told_before(
    logger: TokentillLogger, server: MemoryTokentill
) -> None:
    litellm.embedding(model="text-embedding-3-small", input="Hi", mock_response=[0.5], user="ann")
    eventually(lambda: server.ends)
    assert server.ends[0].input_token == IN


def test_ends_go_through_the_outbox_while_the_server_is_away(tmp_path: Any, server: MemoryTokentill) -> None:
    client = server.client(
        outbox=tmp_path / "outbox.db", background=False, total_timeout_seconds=0.1, start_timeout_seconds=0.1
    )
    with client:
        litellm.callbacks = [TokentillLogger(client=client, feature_endpoint_id="chat", hold_token=100)]
        stream = litellm.completion(**CALL, stream=True)
        next(stream)
        server.away = True
        list(stream)
        eventually(lambda: client.outbox is not None and client.outbox.status().pending == 1)
        server.away = False
        client.flush_outbox()
        assert len(server.ends) == 1
        assert settled(server)
        litellm.callbacks = []


async def test_a_model_that_reports_nothing_is_told(logger: TokentillLogger, told: Told) -> None:
    await litellm.acompletion(**CALL, metadata={"n": 1})
    logger._start("call-1", {"user": "ann"})
    logger._succeeded(
        {"litellm_call_id": "call-1", "call_type": "acompletion"},
        {"object": "chat.completion", "id": "c-1", "usage": None},
    )
    assert [type(error) for error, _ in told] == [UsageMissingError]


async def test_closing_settles_what_is_open(logger: TokentillLogger, server: MemoryTokentill) -> None:
    stream = await litellm.acompletion(**CALL, stream=True)
    await anext(stream)
    logger.close()
    assert server.ends[0].output_token == 1
    assert settled(server)


def test_what_litellm_normalizes_is_billed_by_kind(logger: TokentillLogger, server: MemoryTokentill) -> None:
    usage = litellm.Usage(
        prompt_tokens=100,
        completion_tokens=40,
        total_tokens=140,
        prompt_tokens_details={"cached_tokens": 60},
        completion_tokens_details={"reasoning_tokens": 30},
        cache_read_input_tokens=60,
        cache_creation_input_tokens=10,
    )
    logger._start("call-1", {"user": "ann"})
    logger._succeeded({"litellm_call_id": "call-1"}, litellm.ModelResponse(usage=usage))
    [end] = server.ends
    assert (end.input_token, end.cached_input_token, end.cache_write_token) == (100, 60, 10)
    assert (end.output_token, end.reasoning_token) == (40, 30)
