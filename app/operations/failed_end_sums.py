"""Sums of failed ends and of debts, grouped by user, feature, reason, age and so on."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from app.access.postgres import PostgresAccess
from app.domain.failed_ends import Filter, Group
from app.domain.pages import FIRST_ID, Page, page
from app.domain.wallets import WalletId, wallet_of
from app.stores.postgres import debts, failed_end_groups
from app.stores.postgres.debts import Room
from app.stores.postgres.failed_end_groups import FailedEndGroup


@dataclass(frozen=True, slots=True)
class Debt:
    """A group's debt. If the groups are single users, `room_micros` is what the user's wallet can pay debts with. It is
    None for other groups, and if there is no such wallet.
    """

    group: FailedEndGroup
    room_micros: int | None = None

    @property
    def missing_micros(self) -> int | None:
        """The top-up that would pay all of the debt."""
        return None if self.room_micros is None else max(0, self.group.cost_micros - self.room_micros)


@dataclass(frozen=True, slots=True)
class Sums:
    """A page of groups, and the total of everything that matches."""

    page: Page[FailedEndGroup, str]
    total: FailedEndGroup


@dataclass(frozen=True, slots=True)
class DebtSums:
    page: Page[Debt, str]
    total: Debt


class FailedEndSums:
    def __init__(self, *, postgres: PostgresAccess) -> None:
        self._postgres = postgres

    def failed_ends(self, matching: Filter, groups: Sequence[Group], limit: int, after: str = FIRST_ID) -> Sums:
        """The largest sums first. Raises Unavailable."""
        return self._postgres.run(
            lambda connection: _add_up(connection, matching, groups, limit, after, are_debts=False)
        )

    def overview(
        self, matching: Filter, groups: Sequence[Group]
    ) -> tuple[FailedEndGroup, Mapping[Group, Sequence[FailedEndGroup]]]:
        """The total of all matching failed ends, and their sums by each of these groups alone. Raises Unavailable."""

        def work(connection: sa.Connection) -> tuple[FailedEndGroup, Mapping[Group, Sequence[FailedEndGroup]]]:
            [total] = failed_end_groups.add_up(connection, matching, (), are_debts=False)
            return total, failed_end_groups.overview(connection, matching, groups)

        return self._postgres.run(work)

    def debts(self, matching: Filter, groups: Sequence[Group], limit: int, after: str = FIRST_ID) -> DebtSums:
        """Like `failed_ends`, for debts. Raises Unavailable."""

        def work(connection: sa.Connection) -> DebtSums:
            found = _add_up(connection, matching, groups, limit, after, are_debts=True)
            rooms: Mapping[WalletId, Room] = {}
            if tuple(groups) == (Group.USER,):
                payers = [wallet_of(group.key[0]) for group in found.page.items if group.key[0] is not None]
                rooms = debts.rooms(connection, payers)
            items = [Debt(group, _room_of(group, rooms)) for group in found.page.items]
            return DebtSums(Page(items, found.page.next_key), Debt(found.total))

        return self._postgres.run(work)


def check_position(groups: Sequence[Group], text: str) -> str:
    """Check a position in a list of these groups, given as text. Raises ValueError."""
    failed_end_groups.position_from(groups, json.loads(text))
    return text


def _add_up(
    connection: sa.Connection, matching: Filter, groups: Sequence[Group], limit: int, after: str, *, are_debts: bool
) -> Sums:
    position = None if after == FIRST_ID else failed_end_groups.position_from(groups, json.loads(after))
    [total] = failed_end_groups.add_up(connection, matching, (), are_debts=are_debts)
    found = page(
        lambda count: failed_end_groups.add_up(
            connection, matching, groups, are_debts=are_debts, after=position, limit=count
        ),
        lambda group: json.dumps(group.position),
        limit,
    )
    return Sums(found, total)


def _room_of(group: FailedEndGroup, rooms: Mapping[WalletId, Room]) -> int | None:
    room = rooms.get(wallet_of(group.key[0])) if group.key and group.key[0] is not None else None
    return None if room is None else room.micros
