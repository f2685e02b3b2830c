"""What one reading of usage says, and careful access to objects nobody here has made."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, TypeAlias

from tokentill.errors import UsageUnreadableError, ValidationError
from tokentill.wire import token_count

Kind: TypeAlias = Literal["increment", "total"]


@dataclass(frozen=True)
class Usage:
    """Tokens that one result or chunk reports. None is "not said", which differs from a reported 0.

    `cached_input_token` and `cache_write_token` are within `input_token`, `reasoning_token` within
    `output_token`. An "increment" is added to its answer, a "total" is all of the answer so far: the latest
    counts. `answer_id` tells the answers of a run apart; without it the answer that goes on is meant.
    `final`: True, nothing follows of this answer; False, the provider goes on counting; None, it doesn't
    say.
    """

    input_token: int | None = None
    output_token: int | None = None
    cached_input_token: int | None = None
    cache_write_token: int | None = None
    reasoning_token: int | None = None
    model: str | None = None
    answer_id: str | None = None
    kind: Kind = "increment"
    final: bool | None = None

    @property
    def said(self) -> bool:
        return self.input_token is not None or self.output_token is not None

    def checked(self) -> Usage:
        """Itself, with whole numbers as `int`. UsageUnreadableError for what can't be a count of tokens."""
        counts = {name: count(name, getattr(self, name)) for name in COUNTS}
        usage = Usage(**counts, model=self.model, answer_id=self.answer_id, kind=self.kind, final=self.final)
        if usage.kind not in {"increment", "total"}:
            raise UsageUnreadableError(f"A usage is an increment or a total, not {usage.kind!r}")
        for whole, parts in WITHIN.items():
            said = [part for part in parts if counts[part]]
            if said and sum(counts[part] or 0 for part in said) > (counts[whole] or 0):
                raise UsageUnreadableError(f"{' and '.join(said)} are more than {whole}")
        return usage


COUNTS = ("input_token", "output_token", "cached_input_token", "cache_write_token", "reasoning_token")
WITHIN = {"input_token": ("cached_input_token", "cache_write_token"), "output_token": ("reasoning_token",)}

Extractor: TypeAlias = Callable[[Any], "Usage | Mapping[str, Any] | None"]

_FIELDS = tuple(field.name for field in fields(Usage))


def usage_from(found: Usage | Mapping[str, Any] | None) -> Usage | None:
    """What an extractor answered. UsageUnreadableError for anything that is no usage."""
    if found is None:
        return None
    if isinstance(found, Mapping):
        found = Usage(**{name: found[name] for name in _FIELDS if found.get(name) is not None})
    if not isinstance(found, Usage):
        raise UsageUnreadableError(f"An extractor answers a Usage, a mapping or None, not {found!r:.100}")
    return found.checked()


def count(name: str, value: Any) -> int | None:
    """A count of tokens, or None where there is none. UsageUnreadableError for anything else."""
    if value is None:
        return None
    try:
        return token_count(name, value)
    except ValidationError as error:
        raise UsageUnreadableError(error.message, errors=error.errors) from None


def get(source: Any, *names: str) -> Any:
    """The first of these keys or attributes that is there: no None, no method, nothing that fails to load."""
    for name in names:
        try:
            value = _field(source, name)
        except Exception:  # noqa: S112 - a property of a stranger's object; it only wasn't what we look for
            continue
        if value is not None and not callable(value):
            return value
    return None


def _field(source: Any, name: str) -> Any:
    kind: Any = type(source)
    if kind is dict:
        return source.get(name)
    if hasattr(kind, "__pydantic_fields__"):
        # Most names are missing, and pydantic takes long to find that out.
        for fields in (source.__dict__, source.__pydantic_extra__):
            if fields and name in fields:
                return fields[name]
        return getattr(source, name, None) if _has(kind, name) else None
    return source.get(name) if isinstance(source, Mapping) else getattr(source, name, None)


@functools.lru_cache(maxsize=4_096)
def _has(kind: Any, name: str) -> bool:
    return hasattr(kind, name)


def text(value: Any) -> str | None:
    """A name or an id, where it is one."""
    return value if isinstance(value, str) and value else None


def record(value: Any) -> bool:
    """Whether it has fields to look at."""
    return value is not None and not isinstance(value, (str, bytes, bytearray, int, float, list, tuple))
