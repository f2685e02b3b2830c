"""A run's usage, by kind."""

from __future__ import annotations

from dataclasses import dataclass

# Upper bound of input tokens and of output tokens, each with all its kinds.
USAGE_TOKENS_MAX = 100_000_000
REQUESTS_MAX = 100_000


@dataclass(frozen=True, slots=True)
class Usage:
    """The usage of one run. Cached input and cache writes are disjoint parts of the input; reasoning is a part of the
    output.
    """

    input_tokens: int
    output_tokens: int
    cached_input_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0
    requests: int = 1

    @property
    def plain_input_tokens(self) -> int:
        """Input tokens that are neither cached input nor cache writes."""
        return self.input_tokens - self.cached_input_tokens - self.cache_write_tokens

    @property
    def plain_output_tokens(self) -> int:
        """Output tokens that aren't reasoning."""
        return self.output_tokens - self.reasoning_tokens

    @property
    def is_empty(self) -> bool:
        return self.input_tokens == 0 and self.output_tokens == 0 and self.requests == 0

    @property
    def is_by_kind(self) -> bool:
        """Whether it has more than plain input and output."""
        return bool(self.cached_input_tokens or self.cache_write_tokens or self.reasoning_tokens or self.requests > 1)

    def errors(self) -> dict[str, list[str]]:
        """Why parts exceed the whole they belong to: the wire's field -> reasons. Empty where none does."""
        errors: dict[str, list[str]] = {}
        parts = {"cached_input_token": self.cached_input_tokens, "cache_write_token": self.cache_write_tokens}
        for field, part in parts.items():
            if part > self.input_tokens:
                errors[field] = ["Must not be more than input_token."]
        if not errors and sum(parts.values()) > self.input_tokens:
            errors = {field: ["Must not be more than input_token together."] for field in parts}
        if self.reasoning_tokens > self.output_tokens:
            errors["reasoning_token"] = ["Must not be more than output_token."]
        return errors
