"""Answers for service servers."""

from __future__ import annotations

from typing import Annotated, NotRequired, TypedDict

from app.billing.holds import ExtendAnswer
from app.billing.start import StartAnswer
from app.domain.amounts import token_number
from app.domain.ends import EndAnswer
from app.domain.moments import moment_text
from app.domain.wallets import Access, Deduction
from app.wire.types import Count, Moment, Text, Tokens, Words

_ACCESS = "Whether the run may start. Nothing may while the wallet owes, or has less than the feature's minimum."


class StartedAnswer(TypedDict):
    user_id: Text
    token: Tokens
    status: Annotated[str, Words(Access), _ACCESS]
    process_id: NotRequired[
        Annotated[Text, "Identifies this run in end, cancel and hold/extend. Only in the answer to a granted start."]
    ]
    hold_token: NotRequired[Annotated[Tokens, "The reserved tokens. Only if a hold was requested and granted."]]
    expires_at: NotRequired[Annotated[Moment, "When the hold expires. Only if a hold was requested and granted."]]


def started_answer(answer: StartAnswer) -> StartedAnswer:
    data: StartedAnswer = {
        "user_id": answer.user_id,
        "token": token_number(answer.spendable_micros),
        "status": answer.access,
    }
    if answer.process_id is not None:
        data["process_id"] = answer.process_id
    if answer.expires_at is not None:
        data["hold_token"] = token_number(answer.hold_micros)
        data["expires_at"] = moment_text(answer.expires_at)
    return data


class EndedAnswer(TypedDict):
    user_id: Text
    token: Annotated[Tokens, "What can be spent once this end is deducted."]
    cost: Tokens
    status: Annotated[
        str,
        Words(Deduction),
        "`return-able`: the wallet covers it. `not-return-able`: the deduction has failed for now and waits as debt.",
    ]


def ended_answer(answer: EndAnswer) -> EndedAnswer:
    return {
        "user_id": answer.user_id,
        "token": token_number(answer.spendable_micros),
        "cost": token_number(answer.cost_micros),
        "status": answer.deduction,
    }


class BatchResultAnswer(TypedDict):
    """What the single call would have answered."""

    success: Annotated[bool, "Whether this end was accepted."]
    status: Annotated[Count, "The HTTP status that a single end would get."]
    message: Annotated[Text, "For people to read."]
    data: NotRequired[Annotated[EndedAnswer, "Only if the end was accepted."]]
    idempotent_replayed: NotRequired[Annotated[bool, "Only if the end was accepted before."]]
    code: NotRequired[Annotated[Text, "Only if the end was refused: a stable code for programs."]]
    errors: NotRequired[
        Annotated[dict[str, list[Text]], "Only if the end was refused: field -> what is wrong with it."]
    ]
    request_id: NotRequired[Annotated[Text, "Only if the end was refused: the id is in the server's log too."]]


class BatchAnswer(TypedDict):
    results: Annotated[list[BatchResultAnswer], "One for each end, in order."]


class CancelledAnswer(TypedDict):
    user_id: Text
    process_id: Text
    token: Tokens


def cancelled_answer(user_id: str, process_id: str, spendable_micros: int) -> CancelledAnswer:
    return {"user_id": user_id, "process_id": process_id, "token": token_number(spendable_micros)}


class ExtendedHoldAnswer(TypedDict):
    user_id: Text
    process_id: Text
    token: Tokens
    hold_token: Annotated[Tokens, "What is reserved now."]
    expires_at: Moment
    status: Annotated[str, Words(Access), "`not-access-able` leaves the hold as it was."]


def extended_hold_answer(user_id: str, process_id: str, answer: ExtendAnswer) -> ExtendedHoldAnswer:
    return {
        "user_id": user_id,
        "process_id": process_id,
        "token": token_number(answer.spendable_micros),
        "hold_token": token_number(answer.hold_micros),
        "expires_at": moment_text(answer.expires_at),
        "status": answer.access,
    }
