"""Empties the stores between two tests, in a few milliseconds: what a test leaves is few rows in few tables."""

from __future__ import annotations

import psycopg
from psycopg import sql
from redis import Redis

from app.config import Config
from app.stores.postgres.tables import metadata

# Their rows come with the schema.
KEPT = ("system_state", "api_keys")
TABLES = [table.name for table in metadata.sorted_tables if table.name not in KEPT]
# Deleting is far cheaper than truncating, which gives new files to every table and index, but leaves dead rows behind.
# Where they have become so many bytes, everything is truncated.
DEAD_BYTES_MAX = 256 * 1024

# A function of the session's own, so that its statements are planned once.
FUNCTION = sql.SQL("""
    CREATE FUNCTION pg_temp.empty_everything() RETURNS void LANGUAGE plpgsql AS $$
    BEGIN
        -- Whoever is still at work on what the last test began is waited for.
        LOCK TABLE {tables} IN ACCESS EXCLUSIVE MODE;
        IF EXISTS (SELECT 1 FROM unnest({names}::regclass[]) AS name WHERE pg_table_size(name) > {dead_bytes_max}) THEN
            TRUNCATE {tables};
        ELSE
            {deletes};
        END IF;
        PERFORM setval(seqrelid, seqstart, false) FROM pg_sequence JOIN pg_depend ON objid = seqrelid
            WHERE classid = 'pg_class'::regclass AND refclassid = 'pg_class'::regclass
                AND refobjid = ANY ({names}::regclass[]::oid[]) AND deptype IN ('a', 'i');
        -- The rows of the environment's keys come with the schema.
        DELETE FROM api_keys WHERE digest IS NOT NULL;
        UPDATE api_keys SET last_used_at = NULL, last_used_address = NULL;
        UPDATE system_state SET catalog_version = catalog_version + 1, keys_version = keys_version + 1,
            archived_end_id = '00000000-0000-0000-0000-000000000000';
    END $$
""").format(
    tables=sql.SQL(", ").join(map(sql.Identifier, TABLES)),
    names=sql.Literal(TABLES),
    dead_bytes_max=sql.Literal(DEAD_BYTES_MAX),
    deletes=sql.SQL("; ").join(sql.SQL("DELETE FROM {}").format(sql.Identifier(name)) for name in TABLES),
)

_connections: dict[str, psycopg.Connection[tuple[object, ...]]] = {}


def empty_stores(config: Config, redis_client: Redis) -> None:
    """Leave no row and no key but those that come with the schema. Numbers begin at 1 again."""
    url = config.database_url.replace("postgresql+psycopg://", "postgresql://")
    try:
        _empty(url)
    except psycopg.OperationalError:
        # A test ended the sessions of everybody, or put another database in the place of this one.
        forget(url)
        _empty(url)
    redis_client.flushall()


def forget(url: str) -> None:
    """Close what is kept open to a database."""
    if url in _connections:
        _connections.pop(url).close()


def _empty(url: str) -> None:
    if url not in _connections:
        # The ledger refuses to be emptied; only a superuser's session may step over its triggers.
        options = "-c session_replication_role=replica"
        _connections[url] = psycopg.connect(url, autocommit=True, application_name="emptying", options=options)
        _connections[url].execute(FUNCTION)
    _connections[url].execute("SELECT pg_temp.empty_everything()")
