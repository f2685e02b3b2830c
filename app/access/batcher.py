"""Group commit: calls that wait at the same time share one run.

The first caller to find nobody at work leads: it runs what is queued, its own call included, then hands the
lead to the next waiting caller. There is no thread of its own, so an idle process has nothing to stop and a
lone caller pays nothing.
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
    """A call got no answer, from a batcher that goes on working."""


class BatchTimeout(Unanswered):
    """It was given up before its turn came, and nothing of it was done; or, twice as late, in the middle of a run
    that doesn't end, and what became of it is unknown.
    """


class BatchAborted(Unanswered):
    """The thread that ran it was told to end in the middle (SystemExit, KeyboardInterrupt); what became of it is
    unknown.
    """


class _Slot(Generic[Call, Result]):
    """Calls of one caller that are run together, and what became of them."""

    __slots__ = ("answers", "calls", "is_done", "wakeup")

    def __init__(self, calls: Sequence[Call]) -> None:
        self.calls = calls
        self.answers: Sequence[Result | Exception] = ()
        self.is_done = False
        # A bare lock is the cheapest thing to wait on: released when the slot is done or shall lead.
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
        """`run` answers each call of a batch, in order, by a result or by the exception to raise for it."""
        self._run = run
        self._calls_max = calls_max
        self._timeout_seconds = timeout_seconds
        self._lock = threading.Lock()
        self._queue: deque[_Slot[Call, Result]] = deque()
        # Whose slot it is that leads, or shall as soon as its caller wakes up.
        self._leader: _Slot[Call, Result] | None = None

    @property
    def waiting(self) -> int:
        """How many calls wait for their turn now."""
        return len(self._queue)

    def submit(self, call: Call) -> Result:
        """Have one call answered. Raises what `run` gave for it, or Unanswered."""
        [answer] = self.submit_all([call])
        if isinstance(answer, Exception):
            raise answer
        return answer

    def submit_all(self, calls: Sequence[Call]) -> list[Result | Exception]:
        """Have many calls answered together; exceptions are returned in their places."""
        step = self._calls_max
        slots: list[_Slot[Call, Result]] = [_Slot(calls[i : i + step]) for i in range(0, len(calls), step)]
        if slots:
            # Whoever takes the lead has to have something to answer, or would never hand it on.
            self._work(slots)
        return [answer for slot in slots for answer in slot.answers]

    def _work(self, slots: Sequence[_Slot[Call, Result]]) -> None:
        """Have slots answered, by ourselves or by whoever leads."""
        turn_by = time.monotonic() + self._timeout_seconds
        try:
            with self._lock:
                self._queue.extend(slots)
                leads = self._leader is None
                if leads:
                    self._leader = slots[0]
            if leads:
                # The queue is first in, first out: leading from here reaches our own slots.
                self._lead_until(slots[0])
            for slot in slots:
                while not slot.is_done:
                    if not self._wait_for(slot, turn_by):
                        slot.fail(BatchTimeout())
                        break
                    if not slot.is_done:
                        self._lead_until(slot)
        except BaseException:
            # Whoever is told to end, or fails in here, leaves nothing behind that would be handed the lead.
            for slot in slots:
                self._withdraw(slot)
            raise

    def _lead_until(self, own: _Slot[Call, Result]) -> None:
        """Run batches until our own slot is answered, then hand the lead on, whatever a run raises."""
        try:
            while not own.is_done:
                self._answer(self._take())
        finally:
            self._hand_on()

    def _take(self) -> list[_Slot[Call, Result]]:
        """What waits, from the front, as far as one run takes it."""
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
            # Whatever it is, each waiting caller has to learn of it.
            for slot in batch:
                slot.fail(error)
        except BaseException:
            # Meant for the thread that happens to lead, and not for those whose calls it has in hand.
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
        """Wait until the slot is answered or shall lead. False: it took too long."""
        if slot.wakeup.acquire(timeout=max(0.0, turn_by - time.monotonic())):
            return True
        if self._withdraw(slot):
            return False
        # In the hands of a run. Whoever gave it up now might do again what is about to be done.
        done_by = turn_by + self._timeout_seconds
        return slot.wakeup.acquire(timeout=max(0.0, done_by - time.monotonic()))

    def _withdraw(self, slot: _Slot[Call, Result]) -> bool:
        """Take a slot back whose turn hasn't come. False: it is in the hands of a run, or answered."""
        with self._lock:
            is_queued = slot in self._queue
            if is_queued:
                self._queue.remove(slot)
            leads = self._leader is slot
        if leads:
            # Made the leader at the last moment: the next one has to be.
            self._hand_on()
        return is_queued
