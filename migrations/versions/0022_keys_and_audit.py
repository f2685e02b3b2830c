"""Named API keys, and the audit log: who changed what, when and from where."""

from __future__ import annotations

from alembic import op

revision = "0022"
down_revision = "0021"


def upgrade() -> None:
    op.execute("""
        CREATE TABLE api_keys (
            number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
            id text NOT NULL UNIQUE,
            name text NOT NULL,
            kind text NOT NULL,
            scopes text[] NOT NULL,
            digest bytea UNIQUE,
            created_at timestamptz NOT NULL DEFAULT now(),
            created_by text,
            expires_at timestamptz,
            lifetime_seconds bigint,
            replaces text UNIQUE,
            revoked_at timestamptz,
            revoked_by text,
            last_used_at timestamptz,
            last_used_address text,
            CONSTRAINT api_keys_kind_known CHECK (kind IN ('service', 'operator')),
            CONSTRAINT api_keys_digest_unless_of_environment CHECK ((digest IS NULL) = (id IN ('server', 'admin')))
        );
        CREATE INDEX api_keys_name ON api_keys (name);
        -- Those of SERVER_API_KEY and ADMIN_API_KEY, with all scopes of their kind: for when they were last used.
        INSERT INTO api_keys (id, name, kind, scopes)
            VALUES ('server', 'server', 'service', '{}'), ('admin', 'admin', 'operator', '{}');

        ALTER TABLE system_state ADD COLUMN keys_version bigint NOT NULL DEFAULT 1;

        CREATE TABLE audit_log (
            id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
            at timestamptz NOT NULL DEFAULT clock_timestamp(),
            action text NOT NULL,
            subject_kind text NOT NULL,
            subject_id text NOT NULL,
            before jsonb,
            after jsonb,
            actor text NOT NULL,
            key_id text,
            address text,
            request_id text
        );
        CREATE INDEX audit_log_subject ON audit_log (subject_kind, subject_id, id);
        CREATE INDEX audit_log_action ON audit_log (action, id);
        CREATE INDEX audit_log_actor ON audit_log (actor text_pattern_ops, id);
        CREATE INDEX audit_log_key_id ON audit_log (key_id, id);
        CREATE INDEX audit_log_at ON audit_log (at);
        CREATE FUNCTION refuse_audit_change() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            RAISE EXCEPTION 'audit_log is append-only: % refused', TG_OP;
        END
        $$;
        CREATE TRIGGER audit_log_append_only
            BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_log
            FOR EACH STATEMENT EXECUTE FUNCTION refuse_audit_change();
    """)
