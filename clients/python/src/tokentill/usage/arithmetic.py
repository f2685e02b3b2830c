"""From a provider's report of usage to counts: which part is inside which, decided by the reported total.

Providers agree on the words and not on the sums. Cached input is inside the input at OpenAI and beside it at
Anthropic; reasoning is inside the output at OpenAI and beside it at xAI and Gemini; Gemini counts the
prompts of tools apart. Each name has a usual place, and where the report has a total, the reading under
which the total adds up is the right one. When none adds up the report can't be believed:
UsageUnreadableError.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any, TypeAlias

from tokentill.errors import UsageUnreadableError
from tokentill.usage.model import COUNTS, Usage, count, get, record

Path: TypeAlias = tuple[str, ...]

INPUT: tuple[Path, ...] = (
    ("prompt_tokens",),
    ("input_tokens",),
    ("promptTokens",),
    ("inputTokens",),
    ("inputTokens", "total"),
    ("prompt_token_count",),
    ("promptTokenCount",),
    ("inputTokenCount",),
    ("prompt_eval_count",),
    # Gemini's interactions.
    ("total_input_tokens",),
    # Cohere charges for these; its `tokens` have its own templates in them.
    ("billed_units", "input_tokens"),
    ("tokens", "input_tokens"),
)
OUTPUT: tuple[Path, ...] = (
    ("completion_tokens",),
    ("output_tokens",),
    ("completionTokens",),
    ("outputTokens",),
    ("outputTokens", "total"),
    ("candidates_token_count",),
    ("candidatesTokenCount",),
    ("response_token_count",),
    ("responseTokenCount",),
    ("outputTokenCount",),
    ("eval_count",),
    ("total_output_tokens",),
    ("billed_units", "output_tokens"),
    ("tokens", "output_tokens"),
)
TOTAL: tuple[Path, ...] = (
    ("total_tokens",),
    ("totalTokens",),
    ("total_token_count",),
    ("totalTokenCount",),
)


@dataclass(frozen=True)
class _Part:
    """Tokens reported apart: under which names, and whether they are usually inside the whole."""

    kind: str
    whole: str
    inside: tuple[Path, ...]
    beside: tuple[Path, ...]
    # Names whose counts are added to the first: one kind, reported in pieces.
    more: tuple[Path, ...] = ()


# In the order in which a place is doubted, the most doubtful first.
PARTS = (
    _Part(
        "reasoning_token",
        "output",
        inside=(
            ("completion_tokens_details", "reasoning_tokens"),
            ("output_tokens_details", "reasoning_tokens"),
            ("output_tokens_details", "thinking_tokens"),
            ("output_token_details", "reasoning"),
            ("completionTokensDetails", "reasoningTokens"),
            ("outputTokensDetails", "reasoningTokens"),
            ("outputTokenDetails", "reasoningTokens"),
            ("outputTokens", "reasoning"),
            ("reasoningTokens",),
            ("reasoning_tokens",),
        ),
        beside=(("thoughts_token_count",), ("thoughtsTokenCount",), ("total_thought_tokens",)),
    ),
    _Part(
        "cached_input_token",
        "input",
        inside=(
            ("prompt_tokens_details", "cached_tokens"),
            ("input_tokens_details", "cached_tokens"),
            ("input_token_details", "cache_read"),
            ("input_token_details", "cached_tokens"),
            ("promptTokensDetails", "cachedTokens"),
            ("inputTokensDetails", "cachedTokens"),
            ("inputTokenDetails", "cacheReadTokens"),
            ("inputTokens", "cacheRead"),
            ("cachedInputTokens",),
            ("cached_content_token_count",),
            ("cachedContentTokenCount",),
            ("prompt_cache_hit_tokens",),
            ("cached_tokens",),
            ("total_cached_tokens",),
        ),
        beside=(("cache_read_input_tokens",), ("cacheReadInputTokens",), ("cacheReadInputTokenCount",)),
    ),
    _Part(
        "cache_write_token",
        "input",
        inside=(
            ("prompt_tokens_details", "cache_write_tokens"),
            ("prompt_tokens_details", "cache_creation_tokens"),
            ("input_tokens_details", "cache_write_tokens"),
            ("input_token_details", "cache_creation"),
            ("inputTokenDetails", "cacheWriteTokens"),
            ("inputTokens", "cacheWrite"),
        ),
        beside=(
            ("cache_creation_input_tokens",),
            ("cacheWriteInputTokens",),
            ("cacheWriteInputTokenCount",),
        ),
        # langchain-anthropic reports what it wrote by how long it is kept.
        more=(
            ("input_token_details", "ephemeral_5m_input_tokens"),
            ("input_token_details", "ephemeral_1h_input_tokens"),
        ),
    ),
    _Part(
        "tool_use_token",
        "input",
        inside=(),
        beside=(("tool_use_prompt_token_count",), ("toolUsePromptTokenCount",), ("total_tool_use_tokens",)),
    ),
)


@dataclass(frozen=True)
class _Found:
    kind: str
    whole: str
    count: int
    usually_inside: bool


def counts_of(report: Any) -> Usage:
    """The counts in a provider's usage object. UsageUnreadableError where there are none that add up."""
    if not record(report):
        raise UsageUnreadableError(f"The usage is no object with counts: {report!r:.100}")
    input_path, input_token = _first(report, INPUT)
    _, output_token = _first(report, OUTPUT)
    if input_token is None and output_token is None:
        raise UsageUnreadableError("The usage has no count that is known")
    wholes = {"input": input_token, "output": output_token}
    # A part may stand without its whole: Gemini's thoughts, where they used up all that was allowed.
    found = _parts(report, input_path)
    _, total = _first(report, TOTAL)
    if total == 0:
        total = None  # Left at its default by some, LiteLLM's embeddings among them.
    places = _places(found, wholes, total)
    for part, inside in zip(found, places, strict=True):
        if not inside:
            wholes[part.whole] = (wholes[part.whole] or 0) + part.count
    kinds: dict[str, Any] = {part.kind: part.count for part in found}
    kinds.pop("tool_use_token", None)
    usage = Usage(input_token=wholes["input"], output_token=wholes["output"], **kinds)
    return _with_iterations(usage, report)


def _with_iterations(usage: Usage, report: Any) -> Usage:
    """Anthropic counts the answer; what it took to compact or advise is reported beside it."""
    iterations = get(report, "iterations")
    if not isinstance(iterations, list):
        return usage
    # A stream's last event may leave the input out: then it is the sum of all iterations.
    names = [name for name in COUNTS if getattr(usage, name) is None] if usage.input_token is None else []
    sums = {name: getattr(usage, name) or 0 for name in COUNTS}
    beside = False
    for iteration in iterations:
        is_beside = get(iteration, "type") in _NOT_IN_THE_ANSWER
        beside = beside or is_beside
        counts = counts_of(iteration)
        for name in COUNTS if is_beside else names:
            sums[name] += getattr(counts, name) or 0
    if not beside:
        return usage
    told: dict[str, Any] = {name: number or getattr(usage, name) for name, number in sums.items()}
    return Usage(**told)


_NOT_IN_THE_ANSWER = {"compaction", "advisor_message"}


def _places(found: list[_Found], wholes: dict[str, int | None], total: int | None) -> tuple[bool, ...]:
    """For each part, whether it is inside its whole: the fewest changes to what is usual that add up."""
    usual = tuple(part.usually_inside for part in found)
    possible = sorted(
        (
            places
            for places in itertools.product((True, False), repeat=len(found))
            if _fits(found, places, wholes)
        ),
        key=lambda places: [
            sum(is_now != was for is_now, was in zip(places, usual, strict=True)),
            # Of two equally small changes the one to the part that is doubted first.
            *(is_now == was for is_now, was in zip(places, usual, strict=True)),
        ],
    )
    for places in possible:
        if total is None or _sum(found, places, wholes) == total:
            return places
    raise UsageUnreadableError(f"The counts of the usage don't add up to its total of {total}")


def _fits(found: list[_Found], places: tuple[bool, ...], wholes: dict[str, int | None]) -> bool:
    """No whole is smaller than the parts inside it."""
    for whole, size in wholes.items():
        inside = [
            part.count for part, place in zip(found, places, strict=True) if place and part.whole == whole
        ]
        if sum(inside) > (size or 0):
            return False
    return True


def _sum(found: list[_Found], places: tuple[bool, ...], wholes: dict[str, int | None]) -> int:
    beside = sum(part.count for part, inside in zip(found, places, strict=True) if not inside)
    return sum(size or 0 for size in wholes.values()) + beside


def _parts(report: Any, input_path: Path | None) -> list[_Found]:
    # LiteLLM repeats Anthropic's names beside OpenAI's, whose prompt_tokens hold them already.
    as_openai = input_path is not None and input_path[0] in {"prompt_tokens", "promptTokens"}
    parts = []
    for part in PARTS:
        usually_inside, found = True, _largest(report, part.inside)
        if not found:
            usually_inside, found = as_openai, _largest(report, part.beside)
        found += sum(_at(report, path) or 0 for path in part.more)
        if found:
            parts.append(_Found(part.kind, part.whole, found, usually_inside))
    return parts


def _largest(report: Any, paths: tuple[Path, ...]) -> int:
    # Two names for the same tokens: one of them is often there and 0.
    return max((_at(report, path) or 0 for path in paths), default=0)


def _first(report: Any, paths: tuple[Path, ...]) -> tuple[Path | None, int | None]:
    for path in paths:
        found = _at(report, path)
        if found is not None:
            return path, found
    return None, None


def _at(report: Any, path: Path) -> int | None:
    value = report
    for name in path:
        value = get(value, name)
        if value is None:
            return None
    # The AI SDK's providers have an object of counts where all others have the count.
    return None if record(value) and len(path) == 1 and path[0].endswith("Tokens") else count(path[-1], value)
