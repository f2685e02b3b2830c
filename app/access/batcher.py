"""Group commit: calls that wait at the same time share one run.

The first caller that finds no leader becomes the leader: it runs what is queued, its own call included, and then hands
the lead to the next waiting caller. There is no extra thread, so an idle process has nothing to stop and a lone caller
has no overhead.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

Call = TypeVar("Call")
Result = TypeVar("Result")


class Unanswered(Exception):
    """A call got no answer; the batcher itself goes on working."""


class BatchTimeout(Unanswered):
    """The call timed out. Either its turn never came and nothing was done, or (after twice the time) it was in a run
    that didn't end, and its outcome is unknown.
    """


class BatchAborted(Unanswered):
    """The thread that ran the call was told to exit meanwhile (SystemExit, KeyboardInterrupt). The call's outcome is
    unknown.
    """


class _Slot(Generic[Call, Result]):
    """Calls of one caller that are run together, and their answers."""

    __slots__ = ("answers", "calls", "is_done", "wakeup")

    def __init__(self, calls: Sequence[Call]) -> None:
        self.calls = calls
        self.answers: Sequence[Result | Exception] = ()
        self.is_done = False
        # A bare lock is the cheapest thing to wait on. It is released when the slot is done or becomes the leader.
        self.wakeup = threading.Lock()
        self.wakeup.acquire()

    def fail(self, error: Exception) -> None:
        self.answers = [error] * len(self.calls)


class Batcher(Generic[Call, Result]):
    def __init__(
        self,
        run: Callable[[list[Call]], Sequence[Result | Exception]],
        *,
        calls_max: int,
        timeout_seconds: float,
    ) -> None:
        """`run` answers each call of a batch, in order, with a result or with the exception to raise for it."""
        self._run = run
        self._calls_max = calls_max
        self._timeout_seconds = timeout_seconds
        self._lock = threading.Lock()
        self._queue: deque[_Slot[Call, Result]] = deque()
        # The slot whose caller leads now, or will lead as soon as it wakes up.
        self._leader: _Slot[Call, Result] | None = None

    @property
    def waiting(self) -> int:
        """How many slots are queued for a turn now."""
        return len(self._queue)

    def submit(self, call: Call) -> Result:
        """Have one call answered. Raises the exception that `run` returned for it, or Unanswered."""
        [answer] = self.submit_all([call])
        if isinstance(answer, Exception):
            raise answer
        return answer

    def submit_all(self, calls: Sequence[Call]) -> list[Result | Exception]:
        """Have many calls answered together. Exceptions are returned in the place of answers."""
        step = self._calls_max
        slots: list[_Slot[Call, Result]] = [_Slot(calls[i : i + step]) for i in range(0, len(calls), step)]
        if slots:
            # A caller without slots must not take the lead: it would never hand it on.
            self._work(slots)
        return [answer for slot in slots for answer in slot.answers]

    def _work(self, slots: Sequence[_Slot[Call, Result]]) -> None:
        """Have these slots answered, by leading ourselves or by the current leader."""
        turn_by = time.monotonic() + self._timeout_seconds
        try:
            with self._lock:
                self._queue.extend(slots)
                leads = self._leader is None
                if leads:
                    self._leader = slots[0]
            if leads:
                # The queue is first in, first out, so leading from here reaches our own slots.
                self._lead_until(slots[0])
            for slot in slots:
                while not slot.is_done:
                    if not self._wait_for(slot, turn_by):
                        slot.fail(BatchTimeout())
                        break
                    if not slot.is_done:
                        self._lead_until(slot)
        except BaseException:
            # On any exception (also an exit) withdraw our slots: nothing may remain queued that would be handed the
            # lead.
            for slot in slots:
                self._withdraw(slot)
            raise

    def _lead_until(self, own: _Slot[Call, Result]) -> None:
        """Run batches until our own slot is answered, then hand the lead on, even if a run raises."""
        try:
            while not own.is_done:
                self._answer(self._take())
        finally:
            self._hand_on()

    def _take(self) -> list[_Slot[Call, Result]]:
        """Slots from the front of the queue, as many as one run takes."""
        batch: list[_Slot[Call, Result]] = []
        room = self._calls_max
        with self._lock:
            while self._queue and len(self._queue[0].calls) <= room:
                room -= len(self._queue[0].calls)
                batch.append(self._queue.popleft())
        return batch

    def _answer(self, batch: list[_Slot[Call, Result]]) -> None:
        try:
            answers = self._run([call for slot in batch for call in slot.calls])
            first = 0
            for slot in batch:
                slot.answers = answers[first : first + len(slot.calls)]
                first += len(slot.calls)
            if first != len(answers):
                raise ValueError(f"{first} calls were given {len(answers)} answers")  # noqa: TRY301
        except Exception as error:
            # Each waiting caller has to learn of the error, whatever it is.
            for slot in batch:
                slot.fail(error)
        except BaseException:
            # The exception is meant for the leader's thread, not for the other callers in its batch.
            for slot in batch:
                slot.fail(BatchAborted())
            raise
        finally:
            for slot in batch:
                slot.is_done = True
                slot.wakeup.release()

    def _hand_on(self) -> None:
        with self._lock:
            self._leader = self._queue[0] if self._queue else None
            if self._leader is not None:
                self._leader.wakeup.release()

    def _wait_for(self, slot: _Slot[Call, Result], turn_by: float) -> bool:
        """Wait until the slot is answered or becomes the leader. False: it timed out."""
        if slot.wakeup.acquire(timeout=max(0.0, turn_by - time.monotonic())):
            return True
        if self._withdraw(slot):
            return False
        # A run has taken the slot. Giving up now could make the caller repeat what is about to be done, so wait once
        # more.
        done_by = turn_by + self._timeout_seconds
        return slot.wakeup.acquire(timeout=max(0.0, done_by - time.monotonic()))

    def _withdraw(self, slot: _Slot[Call, Result]) -> bool:
        """Remove a slot that is still queued. False: a run has taken it, or it is answered."""
        with self._lock:
            is_queued = slot in self._queue
            if is_queued:
                self._queue.remove(slot)
            leads = self._leader is slot
        if leads:
            # The slot had just been made the leader: hand the lead to the next one.
            self._hand_on()
        return is_queued
