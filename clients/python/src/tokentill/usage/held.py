"""The providers' streams behind a stream whose chunks say nothing of usage, such as bare text.

    with anthropic.messages.stream(...) as stream:
        for text in stream.text_stream:
            yield text

The chunks are strings: the usage stands in `stream`, which the generator holds (`tokentill.upstream` finds
it). A stream object that keeps the answer so far is read when the stream is over. Of any other that was seen
nothing can be read, but it shows that a model answered: where nothing else says what that took, it is
reported as missing, not billed as nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

# Anthropic's MessageStream and OpenAI's ChatCompletionStream. By the class: the properties raise before the
# start.
_SNAPSHOTS = ("current_message_snapshot", "current_completion_snapshot")


class HeldStreams:
    """What was seen in one run."""

    def __init__(self) -> None:
        self.kinds: set[str] = set()
        self._helpers: dict[int, Any] = {}
        self._pieces: dict[int, int] = {}

    def see(self, streams: Sequence[Any]) -> None:
        for stream in streams:
            self.kinds.add(f"{type(stream).__module__}.{type(stream).__qualname__}")
            if any(hasattr(type(stream), name) for name in _SNAPSHOTS):
                # Not weakly: it is gone with the generator, and read after it.
                self._helpers.setdefault(id(stream), stream)

    def count_piece(self) -> None:
        """A chunk that nobody knows was made from a piece of the newest stream."""
        if self._helpers:
            newest = next(reversed(self._helpers))
            self._pieces[newest] = self._pieces.get(newest, 0) + 1

    def helpers(self) -> list[tuple[Any, int]]:
        """The streams that keep their answers, and how many pieces were made from each."""
        return [(stream, self._pieces.get(key, 0)) for key, stream in self._helpers.items()]
