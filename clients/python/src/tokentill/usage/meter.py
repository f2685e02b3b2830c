"""Adding up one run: its answers are added, and of each answer the latest total counts.

Of one answer a provider's total beats everything that was added up in pieces, a reported 0 too. Only where
it has said that it goes on counting, as Anthropic's `message_start` does, and then never finished, do the
pieces count if they are more. Pieces alone count when the stream was left before the provider could report,
or always with `count_deltas`. What can't be counted is never guessed: the rest is summed up, and `settle`
answers with the error that says so.
"""

from __future__ import annotations

import functools
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Concatenate, ParamSpec, TypeVar

from tokentill.errors import UsageError, UsageMissingError, UsageUnreadableError
from tokentill.usage.held import HeldStreams
from tokentill.usage.model import COUNTS, WITHIN, Extractor, Usage, usage_from
from tokentill.usage.seen import as_json
from tokentill.usage.shapes import Reading, look, look_through

P = ParamSpec("P")
R = TypeVar("R")

SEEN_MAX = 10
# How many results are remembered as read: one that is passed on or returned was read lately. Of those that
# no id tells apart more, as a feature may return all of them in a list.
RESULTS_MAX = 100
NAMELESS_MAX = 1_000


@dataclass(frozen=True)
class Used:
    """What a run is billed for. `requests` is the number of answers that were added up."""

    input_token: int = 0
    output_token: int = 0
    cached_input_token: int = 0
    cache_write_token: int = 0
    reasoning_token: int = 0
    requests: int = 1
    model: str | None = None

    @property
    def any(self) -> bool:
        return self.input_token > 0 or self.output_token > 0

    def since(self, before: Used) -> dict[str, int]:
        """The counts that have grown."""
        grown = {name: getattr(self, name) - getattr(before, name) for name in COUNTS}
        return {name: count for name, count in grown.items() if count > 0}

    def as_end(self) -> dict[str, Any]:
        """The fields of an end; those beyond the guide's only where they say something."""
        said = {"input_token": self.input_token, "output_token": self.output_token, "model": self.model}
        for name in ("cached_input_token", "cache_write_token", "reasoning_token"):
            if getattr(self, name):
                said[name] = getattr(self, name)
        if self.requests > 1:
            said["requests"] = self.requests
        return said


@dataclass(frozen=True)
class Settled:
    """The end of the counting. `error`: something was used that `used` doesn't hold."""

    used: Used
    error: UsageError | None = None


_Counts = dict[str, int]


@dataclass
class _Answer:
    answer_id: str | None = None
    model: str | None = None
    # Said by the feature itself, beside whatever a provider reports.
    used: _Counts = field(default_factory=dict)
    added: _Counts = field(default_factory=dict)
    total: _Counts = field(default_factory=dict)
    pieces: int = 0
    # The totals will grow: the provider said that it goes on.
    growing: bool = False
    # The model has stopped, so that no total grows any more.
    stopped: bool = False
    # The provider gave up in the middle of it.
    broken: bool = False
    over: bool = False
    # Whether the stream it came by was left before its end; None while that goes on.
    left: bool | None = None
    of_model: bool = False
    # Counted by the feature or its extractor, whose word is above any count of pieces.
    own: bool = False
    report: Any = None
    unreadable: UsageError | None = None

    @property
    def only_pieces(self) -> bool:
        return self.answer_id is None and not (self.over or self.used or self.added or self.total)

    def incomplete(self, *, by_pieces: bool) -> bool:
        """Text flowed and nobody said how many tokens it was: what was said of the input isn't all."""
        known = self.total.get("output_token", self.added.get("output_token"))
        unknown = known is None or (self.growing and known < self.pieces)
        return unknown and self.pieces > 0 and not by_pieces

    def take(self, reading: Reading) -> None:
        usage = reading.usage
        self.model = usage.model or self.model
        self.pieces += reading.pieces
        self.stopped = self.stopped or reading.stopped
        self.broken = self.broken or reading.broken
        self.of_model = self.of_model or not reading.own
        self.own = self.own or (reading.own and usage.said)
        if reading.unreadable is not None:
            self.report, self.unreadable = reading.report, reading.unreadable
        elif usage.said and usage.kind == "total":
            self.report = reading.report
            self._replace(usage, input_at_least=reading.input_at_least)
        elif usage.said:
            _add(self.added, usage)
        elif self.report is None:
            self.report = reading.report

    def _replace(self, usage: Usage, *, input_at_least: bool) -> None:
        # A total that can be read makes up for an earlier one that couldn't: it is about the same tokens.
        self.unreadable = None
        self.growing = usage.final is False and not self.stopped
        for whole, parts in WITHIN.items():
            said = getattr(usage, whole)
            known = self.total.get(whole, 0) if input_at_least and whole == "input_token" else 0
            # Together: parts of an older whole mean nothing beside a newer one.
            if said is not None and said >= known:
                for name in (whole, *parts):
                    self.total[name] = getattr(usage, name) or 0

    def counts(self, *, by_pieces: bool, left_early: bool) -> _Counts:
        found = dict(self.added)
        # What a provider adds up itself is complete only when it has come to its end.
        incomplete = left_early and not self.own
        if incomplete or (by_pieces and (self.growing or "output_token" not in found)):
            counted = max(self.pieces, found.get("output_token", 0))
            if counted:
                found["output_token"] = counted
        for whole, parts in WITHIN.items():
            if whole in self.total and not (self.growing and found.get(whole, 0) > self.total[whole]):
                found.update({name: self.total[name] for name in (whole, *parts)})
        for name, count in self.used.items():
            found[name] = found.get(name, 0) + count
        return found


def _one_at_a_time(method: Callable[Concatenate[Meter, P], R]) -> Callable[Concatenate[Meter, P], R]:
    """A feature may work for one run in several threads."""

    @functools.wraps(method)
    def locked(self: Meter, /, *args: P.args, **kwargs: P.kwargs) -> R:
        with self._lock:
            return method(self, *args, **kwargs)

    return locked


class Meter:
    """Reads everything a run hands it, from whichever threads, and settles once."""

    def __init__(self, extractor: Extractor | None = None) -> None:
        self._count_pieces = extractor is count_deltas
        self._extractor = None if extractor in {None, read_usage, count_deltas} else extractor
        # An extractor may ask for its run again.
        self._lock = threading.RLock()
        self._answers: list[_Answer] = []
        self._by_id: dict[str, _Answer] = {}
        self._current: _Answer | None = None
        self._held = HeldStreams()
        self._whole_run: _Counts = {}
        self._texts = 0
        self._results: deque[Any] = deque(maxlen=RESULTS_MAX)
        self._nameless: deque[Any] = deque(maxlen=NAMELESS_MAX)
        self._reports: deque[Any] = deque(maxlen=RESULTS_MAX)
        self._model: str | None = None

    @_one_at_a_time
    def use(self, usage: Usage) -> None:
        """Add what the feature says it used. Raises UsageUnreadableError for what is no count."""
        usage = usage.checked()
        self._model = usage.model or self._model
        _add((self._current or self._new()).used, usage)

    @_one_at_a_time
    def read(self, result: Any) -> None:
        """Take in a whole result. What it has without an id is an answer of its own."""
        readings = self._readings(result)
        self._results.append(result)
        if any(reading.usage.said and reading.usage.answer_id is None for reading in readings):
            self._nameless.extend(result if isinstance(result, (list, tuple)) else [result])
        self._reports.extend(reading.report for reading in readings if reading.report is not None)
        self._take_all(readings, whole=True)

    @_one_at_a_time
    def read_result(self, result: Any) -> None:
        """Take in what the feature returned, but for what was handed to `read` before: the result itself, one
        in a list, or the usage object of one.
        """
        if not self._was_read(result):
            readings = self._readings(result, skip=self._was_read)
            self._take_all(
                [one for one in readings if not any(one.report is report for report in self._reports)],
                whole=True,
            )

    @_one_at_a_time
    def read_chunk(self, chunk: Any, streams: Sequence[Any] = ()) -> None:
        """Take in a chunk of a stream, unless it was handed to `read` before it was passed on.

        What it has without an id belongs to the answer that goes on. `streams`: those of providers that it
        was made from, see `tokentill.usage.held`.
        """
        self._held.see(streams)
        if isinstance(chunk, (str, bytes)) and chunk:
            self._texts += 1
            if self._count_pieces:
                self._take(Reading(Usage(final=False), pieces=1, own=True), whole=False)
        if self._was_read(chunk):
            return
        readings = self._readings(chunk)
        if not readings and chunk:
            self._held.count_piece()
        self._take_all(readings, whole=False)

    @_one_at_a_time
    def read_return(self, value: Any) -> None:
        """Take in what a generator returned: counts of its own are about all of it, and replace the sum."""
        if self._extractor is not None:
            found = self._extracted(value)
            readings = [] if found is None else [found]
        else:
            readings = list(look_through(value))
        for reading in readings:
            usage = replace(reading.usage, kind="total")
            if reading.own and reading.unreadable is None and usage.answer_id is None:
                self._model = usage.model or self._model
                _add(self._whole_run, usage)
            else:
                self._take(replace(reading, usage=usage), whole=False)

    @_one_at_a_time
    def read_past(self, stream: Any) -> None:
        """The chunks of this stream of a provider didn't come by here: it may keep its answer itself."""
        self._held.see([stream])

    @_one_at_a_time
    def next_answer(self) -> None:
        """What comes now without an id belongs to another answer."""
        self._current = None

    @_one_at_a_time
    def stream_over(self, *, left: bool) -> None:
        """A stream came to its end, or was left before it: so did the answers that came by it."""
        self._read_helpers()
        for answer in self._answers:
            if answer.left is None:
                answer.left = left
        self.next_answer()

    @_one_at_a_time
    def settle(self, *, left_early: bool = False, required: bool = False) -> Settled:
        """The sum, and what keeps it from being all.

        `left_early`: the stream or the feature didn't finish. `required`: saying nothing at all is an
        error, too.
        """
        self._read_helpers()
        sums: _Counts = dict.fromkeys(COUNTS, 0)
        requests, unreadable, missing = 0, [], []
        for answer in self._answers:
            if answer.unreadable is not None:
                unreadable.append(answer)
            broke_off = answer.broken or (left_early if answer.left is None else answer.left)
            incomplete = not broke_off and answer.incomplete(by_pieces=self._count_pieces)
            # What the feature said by itself counts also beside an answer that can't be counted.
            counts = (
                answer.used
                if incomplete
                else answer.counts(by_pieces=self._count_pieces, left_early=broke_off)
            )
            if counts:
                requests += 1
                for name, count in counts.items():
                    sums[name] += count
            unknown = answer.of_model and answer.unreadable is None and not broke_off
            if incomplete or (unknown and not counts):
                missing.append(answer)
        sums.update(self._whole_run)
        for whole, parts in WITHIN.items():
            # A whole that the feature itself said may be smaller than the parts that were read.
            left = sums[whole]
            for part in parts:
                sums[part] = min(sums[part], left)
                left -= sums[part]
        said = requests > 0 or bool(self._whole_run)
        used = Used(**sums, requests=max(requests, 1), model=self._model)
        error = self._error(unreadable, missing, said=said)
        if error is None and required and not said and not left_early:
            error = UsageMissingError("The feature ran, and nothing said what it used")
        return Settled(used, error)

    def _was_read(self, value: Any) -> bool:
        return any(value is known for read in (self._results, self._nameless) for known in read)

    def _readings(self, result: Any, skip: Callable[[Any], bool] = lambda _: False) -> list[Reading]:
        readings = list(look_through(result, skip=skip))
        if self._extractor is not None:
            # What the extractor says replaces our own reading, which then only tells the answers apart.
            readings = [_without_counts(reading) for reading in readings if not reading.own]
            found = self._extracted(result)
            if found is not None:
                readings = [_about(found, readings[0]) if readings else found]
        return readings

    def _take_all(self, readings: list[Reading], *, whole: bool) -> None:
        for reading in readings:
            self._take(reading, whole=whole)

    def _extracted(self, result: Any) -> Reading | None:
        try:
            usage = usage_from(self._extractor(result) if self._extractor else None)
        except Exception as error:
            unreadable = UsageUnreadableError(f"{type(error).__name__}: {error}")
            unreadable.__cause__ = error
            return Reading(Usage(), report=type(result).__name__, unreadable=unreadable, own=True)
        return None if usage is None else Reading(usage, own=True)

    def _take(self, reading: Reading, *, whole: bool) -> None:
        usage = reading.usage
        self._model = usage.model or self._model
        own_answer = whole and usage.kind == "total" and usage.final is None and usage.said
        answer = self._answer(usage, own_answer=own_answer)
        answer.take(reading)
        if usage.final or own_answer:
            answer.over = True

    def _answer(self, usage: Usage, *, own_answer: bool) -> _Answer:
        current = self._current
        if usage.answer_id is not None:
            answer = self._by_id.get(usage.answer_id)
            if answer is None:
                # Some name an answer only after its text: the pieces so far are its.
                answer = current if current and current.only_pieces else self._new()
                answer.answer_id = usage.answer_id
                self._by_id[usage.answer_id] = answer
            self._current = answer
            return answer
        if current is None or (current.over and (usage.said or usage.final is not None)):
            return self._new()
        return self._new() if own_answer and current.total else current

    def _new(self) -> _Answer:
        answer = self._current = _Answer()
        self._answers.append(answer)
        return answer

    def _read_helpers(self) -> None:
        for helper, pieces in self._held.helpers():
            # What an extractor says of the chunks would be counted once more.
            reading = look(helper) if self._extractor is None else None
            if reading is not None:
                self._take(reading, whole=False)
                if self._current is not None:
                    self._current.pieces = max(self._current.pieces, pieces)

    def _error(self, unreadable: list[_Answer], missing: list[_Answer], *, said: bool) -> UsageError | None:
        error: UsageError
        if unreadable:
            why = unreadable[0].unreadable
            kind = UsageMissingError if isinstance(why, UsageMissingError) else UsageUnreadableError
            error = kind(f"The usage of an answer can't be read: {why}")
            error.__cause__ = why
        elif missing:
            error = UsageMissingError("A model answered, and its usage was not reported")
        elif (self._texts or self._held.kinds) and not said:
            error = UsageMissingError(
                "A stream ended and nothing said what it used: read the usage with `run.read`, or say that"
                " the feature is free"
            )
        else:
            return None
        error.seen = [_seen(answer) for answer in (unreadable + missing)[:SEEN_MAX]]
        if (self._texts or self._held.kinds) and not said:
            error.seen.append({"texts": self._texts, "streams": sorted(self._held.kinds)})
        return error


def read_usage(result: Any) -> Usage | None:
    """The usage that a result or chunk reports, added up where it is a list of results; None: it says
    nothing.

    Raises UsageUnreadableError for a report that has no known count, has one that is no count, or doesn't
    add up.
    """
    readings = list(look_through(result))
    for reading in readings:
        if reading.unreadable is not None:
            raise reading.unreadable
    found = [reading.usage for reading in readings if reading.usage.said]
    if len(found) < 2:
        return found[0] if found else None
    sums: dict[str, Any] = {}
    for usage in found:
        _add(sums, usage)
    models = [usage.model for usage in found if usage.model]
    return Usage(**sums, model=models[-1] if models else None, kind="total")


def count_deltas(chunk: Any) -> Usage | None:
    """Like `read_usage`; a chunk of text, or with a piece of the answer only, counts as one output token.

    For streams whose provider reports no usage. As a run's `usage`, the count gives way to what is reported.
    """
    if isinstance(chunk, (str, bytes)):
        return Usage(output_token=1) if chunk else None
    reported = read_usage(chunk)
    if reported is not None:
        return reported
    readings = list(look_through(chunk))
    pieces = sum(reading.pieces for reading in readings)
    if not pieces:
        return None
    about = readings[-1].usage
    return Usage(output_token=pieces, model=about.model, answer_id=about.answer_id)


def _add(counts: _Counts, usage: Usage) -> None:
    for name in COUNTS:
        if (value := getattr(usage, name)) is not None:
            counts[name] = counts.get(name, 0) + value


def _without_counts(reading: Reading) -> Reading:
    about = reading.usage
    usage = Usage(model=about.model, answer_id=about.answer_id, kind=about.kind, final=about.final)
    return replace(reading, usage=usage, unreadable=None)


def _about(found: Reading, reading: Reading) -> Reading:
    """What an extractor found, about the answer that our own reading has recognised."""
    usage, about = found.usage, reading.usage
    named = replace(
        usage,
        model=usage.model or about.model,
        answer_id=usage.answer_id or about.answer_id,
        final=about.final if usage.final is None else usage.final,
    )
    return replace(found, usage=named, pieces=reading.pieces)


def _seen(answer: _Answer) -> dict[str, Any]:
    """What there was, for a person to bill it by: the counts and the ids, never the text."""
    why = answer.unreadable
    return {
        "answer_id": answer.answer_id,
        "model": answer.model,
        "pieces": answer.pieces,
        "usage": as_json(answer.report),
        "why": "no usage was reported" if why is None else str(why),
    }
