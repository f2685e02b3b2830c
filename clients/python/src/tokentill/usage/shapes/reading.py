"""What one value says, as the shapes hand it on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from tokentill.errors import UsageError, UsageUnreadableError
from tokentill.usage.arithmetic import counts_of
from tokentill.usage.model import COUNTS, Kind, Usage, text


@dataclass(frozen=True)
class Reading:
    """What one value says. Without counts it is a model's, too: a piece, or an answer without usage."""

    usage: Usage
    # Pieces of output in it: about a token each, for want of anything better.
    pieces: int = 0
    report: Any = None
    unreadable: UsageError | None = None
    # The feature's own counts, in the guide's words.
    own: bool = False
    # The input counts only where it is more than is known already.
    input_at_least: bool = False
    # The model has stopped: a total that comes now, or later, grows no more.
    stopped: bool = False
    # The provider gave up in the middle of its answer: what flowed is all there is.
    broken: bool = False


# Known, and says nothing of its own: it only repeats what other values say.
NOTHING = Reading(Usage(), own=True)


def reading_of(
    report: Any,
    *,
    model: Any = None,
    answer_id: Any = None,
    kind: Kind = "total",
    final: bool | None = None,
    pieces: int = 0,
    stopped: bool = False,
) -> Reading:
    """What a provider's usage object says, which may be None: an answer, or a piece of one, without usage."""
    about = Usage(model=text(model), answer_id=text(answer_id), kind=kind, final=final)
    if report is None:
        return Reading(about, pieces, stopped=stopped)
    try:
        counts = counts_of(report)
    except UsageUnreadableError as error:
        return Reading(about, pieces, report, error, stopped=stopped)
    told: dict[str, Any] = {name: getattr(counts, name) for name in COUNTS}
    return Reading(replace(about, **told), pieces, report, stopped=stopped)
