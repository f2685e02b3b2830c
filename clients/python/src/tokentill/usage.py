"""Reading what a run used from whatever the service function returned.

Understood as they are, from mappings, dataclasses and any object with attributes:

- the guide's `input_token`, `output_token`, `model`;
- OpenAI: `usage.prompt_tokens` and `completion_tokens`, or `usage.input_tokens` and `output_tokens`
  (Responses);
- Anthropic: `usage.input_tokens` and `output_tokens`, with the tokens read from and written to its cache as
  input;
- Gemini: `usage_metadata` (or `usageMetadata`) with its prompt, candidates and thoughts token counts.

An extractor is any function of one result or chunk that answers a `Usage`, a mapping, or None for "says
nothing".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from tokentill.wire import token_count


@dataclass(frozen=True)
class Usage:
    """Tokens used. A stream's chunks are added up, unless `so_far`: then it is the total until here."""

    input_token: int = 0
    output_token: int = 0
    model: str | None = None
    so_far: bool = False


Extractor: TypeAlias = Callable[[Any], Usage | Mapping[str, Any] | None]


def read_usage(result: Any) -> Usage | None:
    """The extractor used where no other is given. None: the result says nothing of usage, the run is free."""
    if result is None or isinstance(result, (str, bytes, int, float)):
        return None
    model = _get(result, "model", "model_version", "modelVersion")
    input_token, output_token = _get(result, "input_token"), _get(result, "output_token")
    if input_token is not None or output_token is not None:
        return _usage(input_token, output_token, model)
    # A provider repeats or completes its totals while it streams; the wrapping event carries them one level
    # down.
    for holder in (result, _get(result, "message"), _get(result, "response")):
        if (report := _get(holder, "usage", "usage_metadata", "usageMetadata")) is not None:
            model = model or _get(holder, "model")
            return _usage(_provider_input(report), _provider_output(report), model, so_far=True)
    return None


def count_deltas(chunk: Any) -> Usage | None:
    """For OpenAI-compatible streams: one output token for each piece of text, until usage is reported.

    Providers report usage in the last chunk (ask for it with `stream_options={"include_usage": True}`), which
    a stream that is closed early never reaches. This counts what flowed until then; of the two the larger
    counts.
    """
    reported = read_usage(chunk)
    if reported is not None and reported.output_token:
        return reported
    choices = _get(chunk, "choices") or []
    pieces = sum(
        1 for choice in choices if _get(_get(choice, "delta"), "content", "reasoning_content", "tool_calls")
    )
    return Usage(output_token=pieces, model=_get(chunk, "model")) if pieces else None


class Meter:
    """Adds up one run. The larger of what was added and of the reported totals counts: nothing twice."""

    def __init__(self, extractor: Extractor | None = None) -> None:
        self._extractor = extractor or read_usage
        self._added = Usage()
        self._so_far = Usage()
        self.model: str | None = None

    @property
    def input_token(self) -> int:
        return max(self._added.input_token, self._so_far.input_token)

    @property
    def output_token(self) -> int:
        return max(self._added.output_token, self._so_far.output_token)

    @property
    def any(self) -> bool:
        return self.input_token > 0 or self.output_token > 0

    def read(self, result: Any, *, so_far: bool = False) -> None:
        """Take in what `result` says. Raises ValidationError, or whatever the extractor raises."""
        found = self._extractor(result)
        if isinstance(found, Mapping):
            found = _usage(found.get("input_token"), found.get("output_token"), found.get("model"))
        if found is not None:
            self.add(found.input_token, found.output_token, found.model, so_far=so_far or found.so_far)

    def add(
        self, input_token: int | None, output_token: int | None, model: str | None, *, so_far: bool = False
    ) -> None:
        used_in = token_count("input_token", input_token)
        used_out = token_count("output_token", output_token)
        self.model = model or self.model
        if so_far:
            before = self._so_far
            self._so_far = Usage(max(before.input_token, used_in), max(before.output_token, used_out))
        else:
            before = self._added
            self._added = Usage(before.input_token + used_in, before.output_token + used_out)


def _usage(input_token: Any, output_token: Any, model: Any, *, so_far: bool = False) -> Usage:
    return Usage(
        token_count("input_token", input_token),
        token_count("output_token", output_token),
        None if model is None else str(model),
        so_far,
    )


def _provider_input(report: Any) -> Any:
    counted = _get(report, "prompt_tokens", "input_tokens", "prompt_token_count", "promptTokenCount")
    cached = [_get(report, name) for name in ("cache_creation_input_tokens", "cache_read_input_tokens")]
    return token_count("input_token", counted) + sum(token_count("input_token", count) for count in cached)


def _provider_output(report: Any) -> Any:
    counted = _get(
        report, "completion_tokens", "output_tokens", "candidates_token_count", "candidatesTokenCount"
    )
    thoughts = _get(report, "thoughts_token_count", "thoughtsTokenCount")
    return token_count("output_token", counted) + token_count("output_token", thoughts)


def _get(source: Any, *names: str) -> Any:
    """The first of these keys or attributes that is there and not None."""
    for name in names:
        value = source.get(name) if isinstance(source, Mapping) else getattr(source, name, None)
        if value is not None:
            return value
    return None
