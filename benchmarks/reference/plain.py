"""The plain way to bill an end: Flask, SQLAlchemy Core, and one transaction with FOR UPDATE for each end.

It is fair because it is what most people would write first, and what many run: it locks the wallet, writes the ledger
entry and the balance, commits, and answers, so an answered end is settled. It keeps every promise of the call (exact
cost, one entry per key, debt if the wallet doesn't cover it), with one table for both ledger and keys and only the
indexes that this needs.
Tuned: a connection for each thread, prepared statements (psycopg's own), the profit rules read once, no ORM, no log
lines, no second look where the insert tells whether the key is new. `synchronous_commit` stays on: it is money.
"""

from __future__ import annotations

import os
from hmac import compare_digest
from typing import Any

import sqlalchemy as sa
from flask import Flask, request
from sqlalchemy.dialects.postgresql import insert

USAGE_TOKENS_MAX = 100_000_000
MICROS_PER_TOKEN = 1_000_000
ID_LENGTH_MAX = 128
KEY_LENGTH_MAX = 255

metadata = sa.MetaData()
_now = sa.text("now()")

features = sa.Table(
    "features",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("profit_basis_points", sa.Integer, nullable=False),
)
wallets = sa.Table(
    "wallets",
    metadata,
    sa.Column("user_id", sa.Text, primary_key=True),
    sa.Column("posted_micros", sa.BigInteger, nullable=False),
    sa.Column("debt_micros", sa.BigInteger, nullable=False, server_default="0"),
)
transactions = sa.Table(
    "transactions",
    metadata,
    sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
    sa.Column("user_id", sa.Text, nullable=False),
    sa.Column("feature_endpoint_id", sa.Text, nullable=False),
    sa.Column("model", sa.Text),
    sa.Column("input_tokens", sa.BigInteger, nullable=False),
    sa.Column("output_tokens", sa.BigInteger, nullable=False),
    sa.Column("base_cost_micros", sa.BigInteger, nullable=False),
    sa.Column("profit_micros", sa.BigInteger, nullable=False),
    sa.Column("cost_micros", sa.BigInteger, nullable=False),
    # The answer: the wallet's balance after the end, less its debt.
    sa.Column("balance_after_micros", sa.BigInteger, nullable=False),
    sa.Column("is_paid", sa.Boolean, nullable=False),
    sa.Column("idempotency_key", sa.Text, unique=True),
    sa.Column("created_at", sa.TIMESTAMP(timezone=True), nullable=False, server_default=_now),
    sa.Index("transactions_user_id", "user_id", "id"),
)

_lock = sa.select(wallets.c.posted_micros, wallets.c.debt_micros).with_for_update()


def create_app(database_url: str, api_key: str, *, connections: int) -> Flask:
    engine = sa.create_engine(
        database_url.replace("postgresql://", "postgresql+psycopg://"), pool_size=connections, max_overflow=0
    )
    with engine.connect() as connection:
        basis_points = {row.id: row.profit_basis_points for row in connection.execute(sa.select(features))}
    app = Flask("plain")
    app.json.sort_keys = False  # type: ignore[attr-defined]
    app.extensions["engine"] = engine

    @app.post("/api/token-process/end")
    def end() -> Any:
        if not compare_digest(request.headers.get("x-server-api-key", "").encode("latin-1"), api_key.encode()):
            return _failure(401, "Invalid server API key")
        body = request.get_json()
        key = request.headers.get("Idempotency-Key")
        wrong = _wrong_fields(body, key)
        if wrong:
            return _failure(400, "Validation failed", errors={name: ["Not valid."] for name in wrong})
        if body["feature_endpoint_id"] not in basis_points:
            return _failure(403, "Feature endpoint is not available in your package")
        with engine.begin() as connection:
            return _bill(connection, body, key, basis_points[body["feature_endpoint_id"]])

    @app.get("/readyz")
    def ready() -> Any:
        return {"status": "ready"}

    return app


def _bill(connection: sa.Connection, body: dict[str, Any], key: str | None, basis_points: int) -> Any:
    user_id = body["user_id"]
    wallet = connection.execute(_lock.where(wallets.c.user_id == user_id)).one_or_none()
    if wallet is None:
        return _failure(404, "User wallet not found")
    base_micros = body["output_token"] * MICROS_PER_TOKEN // 4
    profit_micros = body["output_token"] * basis_points * 25
    cost_micros = base_micros + profit_micros
    after_micros = wallet.posted_micros - wallet.debt_micros - cost_micros
    usage = {
        "user_id": user_id,
        "feature_endpoint_id": body["feature_endpoint_id"],
        "model": body.get("model"),
        "input_tokens": body["input_token"],
        "output_tokens": body["output_token"],
    }
    recorded = connection.execute(
        insert(transactions)
        .values(
            **usage,
            base_cost_micros=base_micros,
            profit_micros=profit_micros,
            cost_micros=cost_micros,
            balance_after_micros=after_micros,
            is_paid=after_micros >= 0,
            idempotency_key=key,
        )
        .on_conflict_do_nothing(index_elements=["idempotency_key"])
        .returning(transactions.c.id)
    ).one_or_none()
    if recorded is None:
        return _replay(connection, usage, key)
    changed = (
        {"posted_micros": wallet.posted_micros - cost_micros}
        if after_micros >= 0
        else {"debt_micros": wallet.debt_micros + cost_micros}
    )
    connection.execute(sa.update(wallets).where(wallets.c.user_id == user_id).values(**changed))
    return _answer(user_id, after_micros, cost_micros, is_paid=after_micros >= 0)


def _replay(connection: sa.Connection, usage: dict[str, Any], key: str | None) -> Any:
    first = connection.execute(sa.select(transactions).where(transactions.c.idempotency_key == key)).one()
    if any(getattr(first, name) != value for name, value in usage.items()):
        return _failure(409, "This key was used with another body")
    answer = _answer(first.user_id, first.balance_after_micros, first.cost_micros, is_paid=first.is_paid)
    return answer, 200, {"Idempotent-Replayed": "true"}


def _answer(user_id: str, balance_micros: int, cost_micros: int, *, is_paid: bool) -> dict[str, Any]:
    return {
        "success": True,
        "message": "Token process ended",
        "data": {
            "user_id": user_id,
            "token": _tokens(balance_micros),
            "cost": _tokens(cost_micros),
            "status": "return-able" if is_paid else "not-return-able",
        },
    }


def _tokens(micros: int) -> int | float:
    # A float writes six decimals exactly up to 2^53 micro-tokens, which would be good enough for a plain solution.
    whole, rest = divmod(micros, MICROS_PER_TOKEN)
    return micros / MICROS_PER_TOKEN if rest else whole


def _wrong_fields(body: dict[str, Any], key: str | None) -> list[str]:
    wrong = [name for name in ("user_id", "feature_endpoint_id") if not _is_text(body.get(name), ID_LENGTH_MAX)]
    wrong += [name for name in ("input_token", "output_token") if not _is_count(body.get(name))]
    if body.get("model") is not None and not _is_text(body["model"], ID_LENGTH_MAX):
        wrong.append("model")
    if key is not None and not _is_text(key, KEY_LENGTH_MAX):
        wrong.append("Idempotency-Key")
    return wrong


def _is_text(value: Any, length_max: int) -> bool:
    return isinstance(value, str) and 1 <= len(value) <= length_max


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= USAGE_TOKENS_MAX


def _failure(status: int, message: str, **more: Any) -> tuple[dict[str, Any], int]:
    return {"success": False, "status": status, "message": message, **more}, status


def __getattr__(name: str) -> Flask:
    # Created only when the server asks for it, so that importing this module needs no environment.
    if name == "app":
        return create_app(
            os.environ["DATABASE_URL"], os.environ["SERVER_API_KEY"], connections=int(os.environ["WEB_THREADS"])
        )
    raise AttributeError(name)
