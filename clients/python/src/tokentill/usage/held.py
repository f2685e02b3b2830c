"""Finding the provider's stream behind a stream of bare text.

    with anthropic.messages.stream(...) as stream:
        for text in stream.text_stream:
            yield text

The chunks are strings: the usage stands in `stream`, which the generator holds in a local variable. So for
each chunk of text the locals of the suspended generator are looked at for an object that keeps the answer
so far. It is only looked at, and read when the run is over; what isn't found is reported as missing, not
billed as nothing.
"""

from __future__ import annotations

from typing import Any

# Anthropic's MessageStream and OpenAI's ChatCompletionStream. By the class: the properties raise before the
# start.
_SNAPSHOTS = ("current_message_snapshot", "current_completion_snapshot")
_DEPTH_MAX = 5


class StreamHelpers:
    """The stream objects seen among the locals of generators and of those that they delegate to."""

    def __init__(self) -> None:
        self._found: dict[int, Any] = {}

    def look(self, generator: Any) -> None:
        """Between two chunks of this one."""
        for _ in range(_DEPTH_MAX):
            frame = getattr(generator, "gi_frame", None) or getattr(generator, "ag_frame", None)
            if frame is None:
                return
            for value in frame.f_locals.values():
                self.add(value)
            generator = getattr(generator, "gi_yieldfrom", None)

    def add(self, value: Any) -> None:
        """Remember it, if it is such a stream."""
        if any(hasattr(type(value), name) for name in _SNAPSHOTS):
            self._found[id(value)] = value

    def found(self) -> list[Any]:
        return list(self._found.values())
