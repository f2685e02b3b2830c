"""The SELECT of each export: its columns, named as in the contract, and its filters."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from app.domain.reports import Entries, Group, Usage
from app.domain.tables import Kind
from app.domain.wallets import WalletId
from app.stores.postgres import ledger_lists, rollups, statements, usage
from app.stores.postgres.exports.columns import Column, Style, selection
from app.stores.postgres.statements import Span
from app.stores.postgres.tables import token_transactions as entries


def _entry(name: str, kind: Kind, column: str | None = None) -> Column:
    return Column(name, kind, entries.c[column or name])


ENTRY_COLUMNS = (
    _entry("id", Kind.COUNT),
    _entry("user_id", Kind.TEXT),
    _entry("kind", Kind.WORD),
    _entry("token", Kind.AMOUNT, "amount_micros"),
    _entry("base_cost", Kind.AMOUNT, "base_cost_micros"),
    _entry("profit", Kind.AMOUNT, "profit_micros"),
    _entry("cost", Kind.AMOUNT, "cost_micros"),
    _entry("input_token", Kind.COUNT, "input_tokens"),
    _entry("output_token", Kind.COUNT, "output_tokens"),
    _entry("cached_input_token", Kind.COUNT, "cached_input_tokens"),
    _entry("cache_write_token", Kind.COUNT, "cache_write_tokens"),
    _entry("reasoning_token", Kind.COUNT, "reasoning_tokens"),
    _entry("requests", Kind.COUNT),
    _entry("model", Kind.TEXT),
    _entry("feature_endpoint_id", Kind.TEXT),
    _entry("price_id", Kind.COUNT),
    _entry("profit_rule_id", Kind.COUNT),
    _entry("balance_after", Kind.AMOUNT, "balance_after_micros"),
    _entry("reference", Kind.TEXT),
    _entry("reason", Kind.TEXT),
    _entry("process_id", Kind.TEXT),
    _entry("end_id", Kind.WORD),
    _entry("corrects", Kind.WORD),
    _entry("request_id", Kind.TEXT),
    _entry("actor", Kind.TEXT),
    _entry("accepted_at", Kind.MOMENT),
    _entry("created_at", Kind.MOMENT),
)

ARCHIVE_COLUMNS = (ENTRY_COLUMNS[0], _entry("wallet_id", Kind.TEXT), *ENTRY_COLUMNS[1:])

_GROUP_KINDS = {Group.DAY: Kind.DAY, Group.PRICE: Kind.COUNT}
# Column of the report -> its name in the contract.
_SUMS = {
    **{name: (name.replace("_tokens", "_token"), Kind.COUNT) for name in rollups.COUNTS},
    "base_cost_micros": ("base_cost", Kind.AMOUNT),
    "profit_micros": ("profit", Kind.AMOUNT),
    "cost_micros": ("cost", Kind.AMOUNT),
    "corrected_micros": ("corrected", Kind.AMOUNT),
    "written_off_micros": ("written_off", Kind.AMOUNT),
}


def entries_select(wanted: Entries, wallet_id: WalletId | None, style: Style) -> sa.Select[Any]:
    """Ledger entries in the order they were made, of one wallet or of all."""
    statement = sa.select(*selection(ENTRY_COLUMNS, style)).where(*ledger_lists.conditions(wanted, wallet_id))
    return statement.order_by(entries.c.id)


def statement_select(within: Span, wanted: Entries, style: Style) -> sa.Select[Any]:
    """The entries of a wallet's statement, in their order."""
    statement = sa.select(*selection(ENTRY_COLUMNS, style)).where(*statements.conditions(within))
    return statement.where(*ledger_lists.attributes(wanted)).order_by(entries.c.id)


def archive_select(columns: tuple[Column, ...], last_entry_id: int) -> sa.Select[Any]:
    """Every entry with an id up to this one."""
    return sa.select(*selection(columns, Style.EXACT)).where(entries.c.id <= last_entry_id).order_by(entries.c.id)


def usage_columns(wanted: Usage) -> tuple[Column, ...]:
    sums = usage.select_usage(wanted).order_by(None).subquery("sums")
    groups = [
        Column(group, _GROUP_KINDS.get(group, Kind.TEXT), usage.group_column(group, sums.c[group]))
        for group in wanted.groups
    ]
    net = sums.c.cost_micros - sums.c.corrected_micros - sums.c.written_off_micros
    return (
        *groups,
        *(Column(name, kind, sums.c[column]) for column, (name, kind) in _SUMS.items()),
        Column("net", Kind.AMOUNT, net),
    )


def usage_select(columns: tuple[Column, ...], wanted: Usage, style: Style) -> sa.Select[Any]:
    """All rows of `usage.report`."""
    order = [column.value for column in columns[: len(wanted.groups)]]
    return sa.select(*selection(columns, style)).order_by(*(value.nulls_first() for value in order))
