"""Commands on single ends: what became of them, and correcting what they were billed."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import click

from app.billing.corrections import Corrected
from app.bootstrap import Container
from app.cli import support
from app.cli.support import as_json, echo_object, echo_page, echo_table, with_services
from app.domain.corrections import CorrectionKind, CorrectionRequest
from app.domain.keys import Caller
from app.domain.pages import Page
from app.domain.usage import REQUESTS_MAX, USAGE_TOKENS_MAX, Usage
from app.wire.answers import correction_answer
from app.wire.failed_ends import EndStoryAnswer, end_story_answer

end_id = click.argument("end_id", type=click.UUID)
reference = click.option(
    "--reference", type=support.REFERENCE, required=True, help="Your own reference; repeating it corrects nothing more."
)
reason = click.option("--reason", type=support.REASON, required=True)


TOKENS = click.IntRange(0, USAGE_TOKENS_MAX)


@click.group()
def ends() -> None:
    """Ends: the history of a run; reverse or amend what it was billed."""


@ends.command("show")
@end_id
@as_json
@with_services
def show(services: Container, *, end_id: UUID, as_json: bool) -> None:
    """Print an end's whole history: acceptance, attempts, why it waits, and its outcome.

    \b
    flask ends show 01890a5d-ac96-774b-bcce-b302099a8057
    """
    answer = end_story_answer(services.end_stories.tell(end_id))
    if as_json:
        echo_object(answer, as_json=True)
    else:
        _echo_story(answer)


@ends.command("reverse")
@end_id
@reference
@reason
@support.by
@as_json
@with_services
def reverse(services: Container, *, end_id: UUID, reference: str, reason: str, caller: Caller, as_json: bool) -> None:
    """Give back all that a run has cost. Find its id in the wallet's transactions or among failed ends.

    \b
    flask ends reverse 01890a5d-ac96-774b-bcce-b302099a8057 --reference ticket-7 --reason "Empty answer"
    """
    _correct(services, CorrectionRequest(end_id, CorrectionKind.REVERSAL, reference, reason, caller=caller), as_json)


@ends.command("amend")
@end_id
@reference
@reason
@click.option("--input-token", "input_tokens", type=TOKENS, required=True)
@click.option("--output-token", "output_tokens", type=TOKENS, required=True)
@click.option("--cached-input-token", "cached_input_tokens", type=TOKENS, default=0, show_default=True)
@click.option("--cache-write-token", "cache_write_tokens", type=TOKENS, default=0, show_default=True)
@click.option("--reasoning-token", "reasoning_tokens", type=TOKENS, default=0, show_default=True)
@click.option("--requests", type=click.IntRange(0, REQUESTS_MAX), default=1, show_default=True)
@support.by
@as_json
@with_services
def amend(
    services: Container,
    *,
    end_id: UUID,
    reference: str,
    reason: str,
    input_tokens: int,
    output_tokens: int,
    cached_input_tokens: int,
    cache_write_tokens: int,
    reasoning_tokens: int,
    requests: int,
    caller: Caller,
    as_json: bool,
) -> None:
    """Correct what a run used. The difference is given back or charged, at the price of its acceptance.

    \b
    flask ends amend 01890a5d-ac96-774b-bcce-b302099a8057 --input-token 1 --output-token 4 --reference t-8 --reason Slip
    """
    usage = Usage(input_tokens, output_tokens, cached_input_tokens, cache_write_tokens, reasoning_tokens, requests)
    if errors := usage.errors():
        reasons = [f"--{field.replace('_', '-')}: {' '.join(texts)}" for field, texts in errors.items()]
        raise click.UsageError(" ".join(reasons))
    request = CorrectionRequest(end_id, CorrectionKind.AMENDMENT, reference, reason, usage, caller=caller)
    _correct(services, request, as_json)


@ends.command("corrections")
@end_id
@as_json
@with_services
def corrections(services: Container, *, end_id: UUID, as_json: bool) -> None:
    """List a run's corrections, oldest first.

    \b
    flask ends corrections 01890a5d-ac96-774b-bcce-b302099a8057
    """
    columns = ("id", "created_at", "kind", "token", "cost_before", "cost", "debt_token", "reference", "reason")
    found: Page[Corrected, str] = Page(services.corrections.of_end(end_id), None)
    echo_page(found, correction_answer, columns, as_json=as_json, more="")


def echo_corrected(outcome: Corrected, *, as_json: bool) -> None:
    """Print a correction or a chargeback. The text output has the ids of its ledger entries."""
    if outcome.replayed:
        click.echo("Done before, under the same reference; nothing was done now.", err=True)
    answer: dict[str, Any] = dict(correction_answer(outcome))
    if not as_json:
        answer["transactions"] = [str(entry["id"]) for entry in answer["transactions"]]
    echo_object(answer, as_json=as_json)


# The lists in a story, each with the columns that are printed as text.
_CHAPTERS = {
    "attempts": ("number", "attempted_at", "error"),
    "corrections": ("id", "created_at", "kind", "token", "debt_token", "reference", "reason"),
    "open_charges": ("id", "state", "cost"),
    "bulk_actions": ("id", "action", "outcome", "detail", "reference", "reason", "confirmed_by", "confirmed_at"),
    "transactions": ("id", "created_at", "kind", "token", "balance_after", "reference", "reason", "actor"),
}


def _echo_story(story: EndStoryAnswer) -> None:
    answer: dict[str, Any] = dict(story)
    chapters = {name: answer.pop(name) for name in _CHAPTERS}
    wait, answered = answer.pop("wait"), answer.pop("answered")
    if answered is not None:
        answer |= {f"answered_{name}": value for name, value in answered.items()}
    # Fields that are None don't apply to this end.
    echo_object({name: value for name, value in answer.items() if value is not None}, as_json=False)
    if wait is not None:
        click.echo(f"\n{wait.pop('why')}")
        echo_object(wait, as_json=False)
    for name, columns in _CHAPTERS.items():
        if chapters[name]:
            click.echo(f"\n{name.replace('_', ' ')}")
            echo_table(columns, chapters[name])


def _correct(services: Container, request: CorrectionRequest, as_json: bool) -> None:
    echo_corrected(services.corrections.correct(request), as_json=as_json)
