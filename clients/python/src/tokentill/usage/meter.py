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
from tokentill.usage.answer import Answer, Counts, add
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


@dataclass
class _Lane:
    """What comes by one stream of the run: several may be read at the same time."""

    number: int
    # The answer that goes on, for what has no id.
    current: Answer | None = None
    texts: int = 0
    held: HeldStreams = field(default_factory=HeldStreams)


def _one_at_a_time(method: Callable[Concatenate[Meter, P], R]) -> Callable[Concatenate[Meter, P], R]:
    """A feature may work for one run in several threads."""

    @functools.wraps(method)
    def locked(self: Meter, /, *args: P.args, **kwargs: P.kwargs) -> R:
        with self._lock:
            return method(self, *args, **kwargs)

    return locked


class Meter:
    """Reads everything a run hands it, from whichever threads, and settles once.

    `lane`: the number of the stream of the run that something came by, 0 for what came by none.
    """

    def __init__(self, extractor: Extractor | None = None) -> None:
        self._count_pieces = extractor is count_deltas
        self._extractor = None if extractor in {None, read_usage, count_deltas} else extractor
        # An extractor may ask for its run again.
        self._lock = threading.RLock()
        self._answers: list[Answer] = []
        self._by_id: dict[str, Answer] = {}
        self._lanes: dict[int, _Lane] = {}
        self._whole_run: Counts = {}
        self._results: deque[Any] = deque(maxlen=RESULTS_MAX)
        self._nameless: deque[Any] = deque(maxlen=NAMELESS_MAX)
        self._reports: deque[Any] = deque(maxlen=RESULTS_MAX)
        self._model: str | None = None

    @_one_at_a_time
    def use(self, usage: Usage, lane: int = 0) -> None:
        """Add what the feature says it used. Raises UsageUnreadableError for what is no count."""
        usage = usage.checked()
        self._model = usage.model or self._model
        at = self._at(lane)
        add((at.current or self._new(at)).used, usage)

    @_one_at_a_time
    def read(self, result: Any, lane: int = 0) -> None:
        """Take in a whole result. What it has without an id is an answer of its own."""
        readings = self._readings(result)
        self._results.append(result)
        if any(reading.usage.said and reading.usage.answer_id is None for reading in readings):
            self._nameless.extend(result if isinstance(result, (list, tuple)) else [result])
        self._reports.extend(reading.report for reading in readings if reading.report is not None)
        self._take_all(readings, self._at(lane), whole=True)

    @_one_at_a_time
    def read_result(self, result: Any) -> None:
        """Take in what the feature returned, but for what was handed to `read` before: the result itself, one
        in a list, or the usage object of one.
        """
        if not self._was_read(result):
            readings = self._readings(result, skip=self._was_read)
            self._take_all(
                [one for one in readings if not any(one.report is report for report in self._reports)],
                self._at(0),
                whole=True,
            )

    @_one_at_a_time
    def read_chunk(self, chunk: Any, streams: Sequence[Any] = (), lane: int = 0) -> None:
        """Take in a chunk of a stream, unless it was handed to `read` before it was passed on.

        What it has without an id belongs to the answer that goes on. `streams`: those of providers that it
        was made from, see `tokentill.usage.held`.
        """
        at = self._at(lane)
        at.held.see(streams)
        if isinstance(chunk, (str, bytes)) and chunk:
            at.texts += 1
            if self._count_pieces:
                self._take(Reading(Usage(final=False), pieces=1, own=True), at, whole=False)
        if self._was_read(chunk):
            return
        readings = self._readings(chunk)
        if not readings and chunk:
            at.held.count_piece()
        self._take_all(readings, at, whole=False)

    @_one_at_a_time
    def read_return(self, value: Any, lane: int = 0) -> None:
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
                add(self._whole_run, usage)
            else:
                self._take(replace(reading, usage=usage), self._at(lane), whole=False)

    @_one_at_a_time
    def read_past(self, stream: Any, lane: int = 0) -> None:
        """The chunks of this stream of a provider didn't come by here: it may keep its answer itself."""
        self._at(lane).held.see([stream])

    @_one_at_a_time
    def next_answer(self, lane: int = 0) -> None:
        """What comes now without an id belongs to another answer."""
        self._at(lane).current = None

    @_one_at_a_time
    def stream_over(self, *, left: bool, lane: int = 0) -> None:
        """A stream came to its end, or was left before it: so did the answers that came by it."""
        self._read_helpers()
        for answer in self._answers:
            if answer.lane == lane and answer.left is None:
                answer.left = left
        self.next_answer(lane)

    @_one_at_a_time
    def settle(self, *, left_early: bool = False, required: bool = False) -> Settled:
        """The sum, and what keeps it from being all.

        `left_early`: the stream or the feature didn't finish. `required`: saying nothing at all is an
        error, too.
        """
        self._read_helpers()
        sums: Counts = dict.fromkeys(COUNTS, 0)
        requests, unreadable, missing = 0, [], []
        said_by: set[int] = set()
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
                said_by.add(answer.lane)
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
        # What the feature says by itself may be about any of its streams.
        by_hand = 0 in said_by or bool(self._whole_run)
        silent = [lane for lane in self._lanes.values() if not by_hand and lane.number not in said_by]
        error = self._error(unreadable, missing, [lane for lane in silent if lane.texts or lane.held.kinds])
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

    def _at(self, lane: int) -> _Lane:
        return self._lanes.setdefault(lane, _Lane(lane))

    def _take_all(self, readings: list[Reading], at: _Lane, *, whole: bool) -> None:
        for reading in readings:
            self._take(reading, at, whole=whole)

    def _extracted(self, result: Any) -> Reading | None:
        try:
            usage = usage_from(self._extractor(result) if self._extractor else None)
        except Exception as error:
            unreadable = UsageUnreadableError(f"{type(error).__name__}: {error}")
            unreadable.__cause__ = error
            return Reading(Usage(), report=type(result).__name__, unreadable=unreadable, own=True)
        return None if usage is None else Reading(usage, own=True)

    def _take(self, reading: Reading, at: _Lane, *, whole: bool) -> Answer:
        usage = reading.usage
        self._model = usage.model or self._model
        # An event that completes what came before it is no answer of its own, also where it is read by hand.
        alone = usage.said and usage.final is None and not reading.input_at_least
        own_answer = whole and usage.kind == "total" and alone
        answer = self._answer(usage, at, own_answer=own_answer)
        answer.take(reading)
        if usage.final or own_answer:
            answer.over = True
        return answer

    def _answer(self, usage: Usage, at: _Lane, *, own_answer: bool) -> Answer:
        current = at.current
        if usage.answer_id is not None:
            answer = self._by_id.get(usage.answer_id)
            if answer is None:
                # Some name an answer only after its text: the pieces so far are its.
                answer = current if current and current.only_pieces else self._new(at)
                answer.answer_id = usage.answer_id
                self._by_id[usage.answer_id] = answer
            at.current = answer
            return answer
        if current is None or (current.over and (usage.said or usage.final is not None)):
            return self._new(at)
        return self._new(at) if own_answer and current.total else current

    def _new(self, at: _Lane) -> Answer:
        answer = at.current = Answer(lane=at.number)
        self._answers.append(answer)
        return answer

    def _read_helpers(self) -> None:
        # What an extractor says of the chunks would be counted once more.
        for lane in self._lanes.values() if self._extractor is None else ():
            for helper, pieces in lane.held.helpers():
                reading = look(helper)
                if reading is not None:
                    answer = self._take(reading, lane, whole=False)
                    answer.pieces = max(answer.pieces, pieces)

    def _error(
        self, unreadable: list[Answer], missing: list[Answer], silent: list[_Lane]
    ) -> UsageError | None:
        error: UsageError
        if unreadable:
            why = unreadable[0].unreadable
            kind = UsageMissingError if isinstance(why, UsageMissingError) else UsageUnreadableError
            error = kind(f"The usage of an answer can't be read: {why}")
            error.__cause__ = why
        elif missing:
            error = UsageMissingError("A model answered, and its usage was not reported")
        elif silent:
            error = UsageMissingError(
                "A stream ended and nothing said what it used: read the usage with `run.read`, or say that"
                " the feature is free"
            )
        else:
            return None
        error.seen = [_seen(answer) for answer in unreadable + missing]
        error.seen += [{"texts": lane.texts, "streams": sorted(lane.held.kinds)} for lane in silent]
        del error.seen[SEEN_MAX:]
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
        add(sums, usage)
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


def _seen(answer: Answer) -> dict[str, Any]:
    """What there was, for a person to bill it by: the counts and the ids, never the text."""
    why = answer.unreadable
    return {
        "answer_id": answer.answer_id,
        "model": answer.model,
        "pieces": answer.pieces,
        "usage": as_json(answer.report),
        "why": "no usage was reported" if why is None else str(why),
    }
