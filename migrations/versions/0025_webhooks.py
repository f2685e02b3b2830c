"""Webhooks: events written by triggers in the transactions that cause them, and whom they are delivered to."""

from __future__ import annotations

from alembic import op

revision = "0025"
down_revision = "0024"


def upgrade() -> None:
    _tables()
    # The process that delivers is one more kind.
    op.execute("""
        ALTER TABLE processes DROP CONSTRAINT processes_kind_known,
            ADD CONSTRAINT processes_kind_known CHECK (kind IN ('web', 'worker', 'webhooks', 'beat'));
    """)
    _events()
    _balances()
    _top_ups()


def _tables() -> None:
    op.execute("""
        -- A UUID of version 7: it begins with the milliseconds, so events stand in the order of their ids.
        CREATE FUNCTION time_ordered_id() RETURNS uuid LANGUAGE sql VOLATILE AS $$
            SELECT CAST(encode(set_bit(set_bit(overlay(
                uuid_send(gen_random_uuid())
                PLACING substring(int8send(CAST(floor(extract(epoch FROM clock_timestamp()) * 1000) AS bigint)) FROM 3)
                FROM 1 FOR 6
            ), 52, 1), 53, 1), 'hex') AS uuid)
        $$;

        CREATE TABLE webhook_endpoints (
            id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
            url text NOT NULL,
            description text,
            -- Empty: all of them.
            event_types text[] NOT NULL DEFAULT '{}',
            state text NOT NULL DEFAULT 'enabled'
                CONSTRAINT webhook_endpoints_state_known CHECK (state IN ('enabled', 'disabled', 'deleted')),
            disabled_reason text CONSTRAINT webhook_endpoints_reason_known
                CHECK (disabled_reason IN ('operator', 'failing', 'gone')),
            disabled_at timestamptz,
            -- Since when nothing has been delivered to it, though something was to be.
            failing_since timestamptz,
            -- It asked to be left alone until then.
            paused_until timestamptz,
            created_at timestamptz NOT NULL DEFAULT now(),
            CONSTRAINT webhook_endpoints_disabled_for_a_reason
                CHECK ((state = 'disabled') = (disabled_reason IS NOT NULL))
        );
        CREATE TABLE webhook_secrets (
            id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
            endpoint_id bigint NOT NULL REFERENCES webhook_endpoints,
            secret text NOT NULL,
            created_at timestamptz NOT NULL DEFAULT now(),
            -- Of one that was followed by another: until then both sign.
            expires_at timestamptz
        );
        CREATE INDEX webhook_secrets_endpoint_id ON webhook_secrets (endpoint_id);

        CREATE TABLE webhook_events (
            id uuid PRIMARY KEY DEFAULT time_ordered_id(),
            type text NOT NULL,
            wallet_id text,
            user_id text,
            data jsonb NOT NULL,
            -- Of a test: for this endpoint and no other.
            endpoint_id bigint,
            occurred_at timestamptz NOT NULL DEFAULT clock_timestamp()
        );
        CREATE INDEX webhook_events_of_user ON webhook_events (user_id, id) WHERE user_id IS NOT NULL;

        -- No foreign keys: they would lock the row of an endpoint for each event, and settlement would wait for whoever
        -- changes an endpoint.
        CREATE TABLE webhook_deliveries (
            id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
            event_id uuid NOT NULL,
            endpoint_id bigint NOT NULL,
            state text NOT NULL DEFAULT 'pending'
                CONSTRAINT webhook_deliveries_state_known CHECK (state IN ('pending', 'delivered', 'failed')),
            attempts integer NOT NULL DEFAULT 0,
            next_attempt_at timestamptz NOT NULL DEFAULT clock_timestamp(),
            -- Somebody is at it until then, and nobody else.
            leased_until timestamptz,
            last_status integer,
            last_error text,
            finished_at timestamptz,
            created_at timestamptz NOT NULL DEFAULT now()
        );
        CREATE UNIQUE INDEX webhook_deliveries_once ON webhook_deliveries (event_id, endpoint_id);
        CREATE INDEX webhook_deliveries_due ON webhook_deliveries (endpoint_id, next_attempt_at)
            WHERE state = 'pending';
        CREATE INDEX webhook_deliveries_of_endpoint ON webhook_deliveries (endpoint_id, id);
        CREATE INDEX webhook_deliveries_failed ON webhook_deliveries (endpoint_id, id) WHERE state = 'failed';

        CREATE TABLE webhook_attempts (
            id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
            delivery_id bigint NOT NULL,
            started_at timestamptz NOT NULL,
            duration_seconds double precision NOT NULL,
            status integer,
            error text,
            -- The beginning of the answer.
            excerpt text
        );
        CREATE INDEX webhook_attempts_of_delivery ON webhook_attempts (delivery_id, id);

        -- Of a wallet, or of all wallets with a package that have none of their own. Neither amount: no warning.
        CREATE TABLE low_balance_rules (
            id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
            wallet_id text,
            package_id text,
            below_micros bigint CONSTRAINT low_balance_rules_below_positive CHECK (below_micros > 0),
            -- Of what the wallet had after its last top-up.
            below_basis_points integer
                CONSTRAINT low_balance_rules_below_in_range CHECK (below_basis_points BETWEEN 1 AND 10000),
            updated_at timestamptz NOT NULL DEFAULT now(),
            CONSTRAINT low_balance_rules_one_owner CHECK (num_nonnulls(wallet_id, package_id) = 1),
            CONSTRAINT low_balance_rules_one_amount CHECK (num_nonnulls(below_micros, below_basis_points) <= 1)
        );
        CREATE UNIQUE INDEX low_balance_rules_of_wallet ON low_balance_rules (wallet_id) WHERE wallet_id IS NOT NULL;
        CREATE UNIQUE INDEX low_balance_rules_of_package ON low_balance_rules (package_id)
            WHERE package_id IS NOT NULL;

        -- The same for top-ups that are asked for. No amounts: none is.
        CREATE TABLE auto_top_up_rules (
            id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
            wallet_id text,
            package_id text,
            below_micros bigint,
            amount_micros bigint CONSTRAINT auto_top_up_rules_amount_positive CHECK (amount_micros > 0),
            requests_per_month integer,
            micros_per_month bigint,
            -- After so many requests in a row that brought nothing no more are made.
            failures_max integer,
            -- For so long a request waits for its top-up.
            answer_seconds integer,
            updated_at timestamptz NOT NULL DEFAULT now(),
            CONSTRAINT auto_top_up_rules_one_owner CHECK (num_nonnulls(wallet_id, package_id) = 1),
            CONSTRAINT auto_top_up_rules_whole CHECK (num_nonnulls(
                below_micros, amount_micros, requests_per_month, micros_per_month, failures_max, answer_seconds
            ) IN (0, 6))
        );
        CREATE UNIQUE INDEX auto_top_up_rules_of_wallet ON auto_top_up_rules (wallet_id) WHERE wallet_id IS NOT NULL;
        CREATE UNIQUE INDEX auto_top_up_rules_of_package ON auto_top_up_rules (package_id)
            WHERE package_id IS NOT NULL;

        -- What is remembered of a wallet for both. Only whoever has the wallet locked changes it.
        CREATE TABLE wallet_watches (
            wallet_id text PRIMARY KEY,
            -- What it had after its last top-up, less its debt.
            full_micros bigint,
            -- Since it was told to be low; null again once its balance has risen clearly above that.
            low_since timestamptz,
            -- Of top-ups that were asked for: how many in a row brought nothing, and when the next may be.
            failed_requests integer NOT NULL DEFAULT 0,
            next_request_at timestamptz,
            stopped_at timestamptz,
            stopped_reason text
                CONSTRAINT wallet_watches_reason_known CHECK (stopped_reason IN ('declined', 'unanswered')),
            -- The month in which it was told that the caps are reached.
            capped_month date
        );
        INSERT INTO wallet_watches (wallet_id, full_micros)
        SELECT DISTINCT ON (wallet_id) wallet_id, balance_after_micros
        FROM (
            SELECT id, wallet_id, balance_after_micros FROM token_transactions WHERE kind = 'top_up'
            UNION ALL
            SELECT id, wallet_id, CAST(entry ->> 'balance_after_micros' AS bigint) FROM archived_postings
            WHERE kind = 'top_up'
        ) AS top_ups
        ORDER BY wallet_id, id DESC;

        CREATE TABLE top_up_requests (
            id uuid PRIMARY KEY DEFAULT time_ordered_id(),
            wallet_id text NOT NULL,
            user_id text NOT NULL,
            reference text NOT NULL,
            amount_micros bigint NOT NULL,
            state text NOT NULL DEFAULT 'open' CONSTRAINT top_up_requests_state_known
                CHECK (state IN ('open', 'answered', 'declined', 'unanswered')),
            reason text,
            transaction_id bigint,
            requested_at timestamptz NOT NULL DEFAULT clock_timestamp(),
            expires_at timestamptz NOT NULL,
            closed_at timestamptz
        );
        CREATE UNIQUE INDEX top_up_requests_one_open ON top_up_requests (wallet_id) WHERE state = 'open';
        CREATE UNIQUE INDEX top_up_requests_reference ON top_up_requests (wallet_id, reference);
        CREATE INDEX top_up_requests_of_wallet ON top_up_requests (wallet_id, requested_at);
        CREATE INDEX top_up_requests_expiring ON top_up_requests (expires_at) WHERE state = 'open';
    """)


def _events() -> None:
    op.execute("""
        CREATE FUNCTION is_webhook_wanted(event_type text) RETURNS boolean LANGUAGE sql STABLE AS $$
            SELECT EXISTS (
                SELECT FROM webhook_endpoints
                WHERE state <> 'deleted' AND (event_types = '{}' OR event_type = ANY(event_types))
            )
        $$;

        -- Whoever writes an event has it delivered to all that want it.
        CREATE FUNCTION fan_out_webhook_events() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            INSERT INTO webhook_deliveries (event_id, endpoint_id)
            SELECT e.id, p.id FROM added AS e JOIN webhook_endpoints AS p ON p.state = 'enabled' AND CASE
                WHEN e.endpoint_id IS NOT NULL THEN p.id = e.endpoint_id
                ELSE p.event_types = '{}' OR e.type = ANY(p.event_types)
            END
            ORDER BY e.id, p.id;
            RETURN NULL;
        END
        $$;
        CREATE TRIGGER webhook_events_fan_out AFTER INSERT ON webhook_events
            REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION fan_out_webhook_events();

        -- Rare, so row by row: rows that it isn't about cost next to nothing.
        CREATE FUNCTION tell_dead_letter() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF is_webhook_wanted('end.dead_lettered') THEN
                INSERT INTO webhook_events (type, wallet_id, user_id, data)
                VALUES ('end.dead_lettered', NEW.wallet_id, NEW.user_id, jsonb_build_object(
                    'end_id', NEW.id, 'user_id', NEW.user_id, 'kind', NEW.kind,
                    'feature_endpoint_id', NEW.feature_endpoint_id, 'model', NEW.model, 'process_id', NEW.process_id,
                    'cost_micros', NEW.cost_micros, 'attempts', NEW.attempts, 'last_error', NEW.last_error,
                    'accepted_at', NEW.accepted_at
                ));
            END IF;
            RETURN NULL;
        END
        $$;
        CREATE TRIGGER end_inbox_dead_letters AFTER UPDATE OF state ON end_inbox FOR EACH ROW
            WHEN (NEW.state = 'dead' AND OLD.state <> 'dead') EXECUTE FUNCTION tell_dead_letter();

        CREATE FUNCTION tell_top_up() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            INSERT INTO wallet_watches AS k (wallet_id, full_micros)
            SELECT w.wallet_id, NEW.balance_after_micros - w.debt_micros FROM wallets AS w
            WHERE w.wallet_id = NEW.wallet_id
            ON CONFLICT (wallet_id) DO UPDATE SET full_micros = excluded.full_micros;

            UPDATE top_up_requests SET state = 'answered', closed_at = clock_timestamp(), transaction_id = NEW.id
            WHERE wallet_id = NEW.wallet_id AND reference = NEW.reference AND state <> 'answered';
            IF FOUND THEN
                UPDATE wallet_watches
                SET failed_requests = 0, next_request_at = NULL, stopped_at = NULL, stopped_reason = NULL
                WHERE wallet_id = NEW.wallet_id;
            END IF;

            IF is_webhook_wanted('wallet.topped_up') THEN
                INSERT INTO webhook_events (type, wallet_id, user_id, data)
                VALUES ('wallet.topped_up', NEW.wallet_id, NEW.user_id, jsonb_build_object(
                    'user_id', NEW.user_id, 'transaction_id', NEW.id, 'amount_micros', NEW.amount_micros,
                    'balance_after_micros', NEW.balance_after_micros, 'reference', NEW.reference,
                    'reason', NEW.reason, 'actor', NEW.actor
                ));
            END IF;
            RETURN NULL;
        END
        $$;
        CREATE TRIGGER token_transactions_top_ups AFTER INSERT ON token_transactions FOR EACH ROW
            WHEN (NEW.kind = 'top_up') EXECUTE FUNCTION tell_top_up();
    """)


def _balances() -> None:
    op.execute("""
        -- Of wallets that the caller has locked. A wallet is told to be low once, when its balance is below what its
        -- rule says, and again only after it has risen a tenth above that.
        CREATE FUNCTION watch_low_balances(ids text[]) RETURNS void LANGUAGE plpgsql AS $$
        BEGIN
            WITH looked AS MATERIALIZED (
                SELECT w.wallet_id, w.user_id, w.posted_micros, w.debt_micros, k.low_since,
                    w.posted_micros - w.debt_micros AS balance_micros, r.basis_points, r.below_micros
                FROM wallets AS w
                LEFT JOIN wallet_watches AS k ON k.wallet_id = w.wallet_id
                LEFT JOIN low_balance_rules AS own ON own.wallet_id = w.wallet_id
                LEFT JOIN low_balance_rules AS theirs ON theirs.package_id = w.package_id
                CROSS JOIN LATERAL (
                    SELECT CASE WHEN own.id IS NULL THEN theirs.below_basis_points ELSE own.below_basis_points END
                        AS basis_points,
                        CASE WHEN own.id IS NULL THEN theirs.below_micros ELSE own.below_micros END AS micros
                ) AS said
                CROSS JOIN LATERAL (
                    SELECT said.basis_points, CASE
                        WHEN said.basis_points IS NULL THEN said.micros
                        -- Numeric: the product may not fit 64 bits.
                        ELSE CAST(trunc(
                            CASE WHEN k.full_micros < 0 THEN 0 ELSE k.full_micros END
                                * CAST(said.basis_points AS numeric) / 10000
                        ) AS bigint)
                    END AS below_micros
                ) AS r
                WHERE w.wallet_id = ANY(ids) AND w.status <> 'closed'
            ), fallen AS (
                INSERT INTO wallet_watches (wallet_id, low_since)
                SELECT wallet_id, clock_timestamp() FROM looked
                WHERE low_since IS NULL AND balance_micros < below_micros ORDER BY wallet_id
                ON CONFLICT (wallet_id) DO UPDATE SET low_since = excluded.low_since
            ), risen AS (
                UPDATE wallet_watches SET low_since = NULL
                WHERE wallet_id = ANY(ARRAY(
                    SELECT wallet_id FROM looked
                    WHERE low_since IS NOT NULL AND balance_micros >= below_micros + greatest(below_micros / 10, 1)
                ))
            )
            INSERT INTO webhook_events (type, wallet_id, user_id, data)
            SELECT 'wallet.low_balance', wallet_id, user_id, jsonb_build_object(
                'user_id', user_id, 'balance_micros', balance_micros, 'posted_micros', posted_micros,
                'debt_micros', debt_micros, 'below_micros', below_micros, 'below_basis_points', basis_points
            )
            FROM looked WHERE low_since IS NULL AND balance_micros < below_micros ORDER BY wallet_id;
        END
        $$;

        CREATE FUNCTION watch_wallets() RETURNS trigger LANGUAGE plpgsql AS $$
        DECLARE
            changed text[];
            has_warnings boolean;
            has_requests boolean;
            is_depletion_wanted boolean;
        BEGIN
            -- Three tables that are mostly empty and never large: what a settlement pays where nothing is set up.
            SELECT EXISTS (SELECT FROM low_balance_rules), EXISTS (SELECT FROM auto_top_up_rules),
                EXISTS (
                    SELECT FROM webhook_endpoints
                    WHERE state <> 'deleted' AND (event_types = '{}' OR 'wallet.depleted' = ANY(event_types))
                )
            INTO has_warnings, has_requests, is_depletion_wanted;
            IF NOT (has_warnings OR has_requests OR is_depletion_wanted) THEN
                RETURN NULL;
            END IF;

            IF is_depletion_wanted THEN
                -- When no start is granted any more that needs a token, which is what features need unless they say
                -- otherwise.
                INSERT INTO webhook_events (type, wallet_id, user_id, data)
                SELECT 'wallet.depleted', n.wallet_id, n.user_id, jsonb_build_object(
                    'user_id', n.user_id, 'balance_micros', n.posted_micros - n.debt_micros,
                    'posted_micros', n.posted_micros, 'debt_micros', n.debt_micros,
                    'overdraft_limit_micros', n.overdraft_limit_micros
                )
                FROM after_it AS n JOIN before_it AS o USING (wallet_id)
                WHERE n.status <> 'closed'
                    AND (n.debt_micros > 0 OR n.posted_micros + n.overdraft_limit_micros < 1000000)
                    AND NOT (o.debt_micros > 0 OR o.posted_micros + o.overdraft_limit_micros < 1000000)
                ORDER BY n.wallet_id;
            END IF;

            IF has_warnings OR has_requests THEN
                changed := ARRAY(
                    SELECT wallet_id FROM after_it AS n JOIN before_it AS o USING (wallet_id)
                    WHERE n.posted_micros - n.debt_micros <> o.posted_micros - o.debt_micros
                        OR n.package_id IS DISTINCT FROM o.package_id OR n.status <> o.status
                );
                IF cardinality(changed) > 0 THEN
                    IF has_warnings THEN
                        PERFORM watch_low_balances(changed);
                    END IF;
                    IF has_requests THEN
                        PERFORM request_top_ups(changed);
                    END IF;
                END IF;
            END IF;
            RETURN NULL;
        END
        $$;
        CREATE TRIGGER wallets_watched AFTER UPDATE ON wallets REFERENCING OLD TABLE AS before_it NEW TABLE AS after_it
            FOR EACH STATEMENT EXECUTE FUNCTION watch_wallets();
    """)


def _top_ups() -> None:
    op.execute("""
        -- What the month has seen that may have been paid, or may yet be: all but what was declined.
        CREATE FUNCTION top_ups_of_month(of_wallet text, OUT requests bigint, OUT micros numeric)
        LANGUAGE sql STABLE AS $$
            SELECT count(*), coalesce(sum(amount_micros), 0) FROM top_up_requests
            WHERE wallet_id = of_wallet AND state <> 'declined'
                AND requested_at >= date_trunc('month', now(), 'UTC')
        $$;

        -- Of wallets that the caller has locked: ask for a top-up where a rule wants one, none is open, and neither the
        -- caps of the month nor failures are in the way. The caps are told of once a month.
        CREATE FUNCTION request_top_ups(ids text[]) RETURNS void LANGUAGE plpgsql AS $$
        BEGIN
            WITH looked AS MATERIALIZED (
                SELECT w.wallet_id, w.user_id, w.posted_micros - w.debt_micros AS balance_micros, r.below_micros,
                    r.amount_micros, r.requests_per_month, r.micros_per_month, r.answer_seconds, k.capped_month,
                    CAST(date_trunc('month', now(), 'UTC') AT TIME ZONE 'UTC' AS date) AS month
                FROM wallets AS w
                LEFT JOIN wallet_watches AS k ON k.wallet_id = w.wallet_id
                LEFT JOIN auto_top_up_rules AS own ON own.wallet_id = w.wallet_id
                JOIN auto_top_up_rules AS r ON r.id = own.id OR (own.id IS NULL AND r.package_id = w.package_id)
                WHERE w.wallet_id = ANY(ids) AND w.status = 'active'
                    AND w.posted_micros - w.debt_micros < r.below_micros
                    AND k.stopped_at IS NULL AND coalesce(k.next_request_at <= clock_timestamp(), true)
                    AND NOT EXISTS (
                        SELECT FROM top_up_requests AS q WHERE q.wallet_id = w.wallet_id AND q.state = 'open'
                    )
            ), counted AS MATERIALIZED (
                SELECT looked.*, m.requests, m.micros, time_ordered_id() AS request_id,
                    m.requests < requests_per_month AND m.micros + amount_micros <= micros_per_month AS is_allowed
                FROM looked CROSS JOIN LATERAL top_ups_of_month(wallet_id) AS m
            ), asked AS (
                INSERT INTO top_up_requests (id, wallet_id, user_id, reference, amount_micros, expires_at)
                SELECT request_id, wallet_id, user_id, 'auto-top-up-' || request_id, amount_micros,
                    clock_timestamp() + make_interval(secs => answer_seconds)
                FROM counted WHERE is_allowed ORDER BY wallet_id
                RETURNING *
            ), capped AS (
                INSERT INTO wallet_watches (wallet_id, capped_month)
                SELECT wallet_id, month FROM counted
                WHERE NOT is_allowed AND capped_month IS DISTINCT FROM month ORDER BY wallet_id
                ON CONFLICT (wallet_id) DO UPDATE SET capped_month = excluded.capped_month
            )
            INSERT INTO webhook_events (type, wallet_id, user_id, data)
            SELECT 'topup.requested', a.wallet_id, a.user_id, jsonb_build_object(
                'user_id', a.user_id, 'request_id', a.id, 'reference', a.reference,
                'amount_micros', a.amount_micros, 'balance_micros', c.balance_micros, 'below_micros', c.below_micros,
                'requests_of_month', c.requests + 1, 'requests_per_month', c.requests_per_month,
                'month_micros', c.micros + c.amount_micros, 'micros_per_month', c.micros_per_month,
                'expires_at', a.expires_at
            )
            FROM asked AS a JOIN counted AS c USING (wallet_id)
            UNION ALL
            SELECT 'topup.stopped', wallet_id, user_id, jsonb_build_object(
                'user_id', user_id, 'reason', 'monthly_cap', 'balance_micros', balance_micros,
                'requests_of_month', requests, 'requests_per_month', requests_per_month,
                'month_micros', micros, 'micros_per_month', micros_per_month
            )
            FROM counted WHERE NOT is_allowed AND capped_month IS DISTINCT FROM month;
        END
        $$;

        -- A request of a wallet that the caller has locked has brought nothing: declined, or unanswered in its time.
        CREATE FUNCTION fail_top_up_request(request uuid, why text, said text, pause_seconds double precision)
        RETURNS void LANGUAGE plpgsql AS $$
        DECLARE
            failed top_up_requests;
            watched wallet_watches;
            allowed integer;
        BEGIN
            UPDATE top_up_requests SET state = why, reason = said, closed_at = clock_timestamp()
            WHERE id = request AND state = 'open' RETURNING * INTO failed;
            IF NOT FOUND THEN
                RETURN;
            END IF;
            INSERT INTO wallet_watches AS k (wallet_id, failed_requests, next_request_at)
            VALUES (failed.wallet_id, 1, clock_timestamp() + make_interval(secs => pause_seconds))
            ON CONFLICT (wallet_id) DO UPDATE SET
                failed_requests = k.failed_requests + 1, next_request_at = excluded.next_request_at
            RETURNING * INTO watched;
            SELECT r.failures_max INTO allowed FROM wallets AS w
            LEFT JOIN auto_top_up_rules AS own ON own.wallet_id = w.wallet_id
            JOIN auto_top_up_rules AS r ON r.id = own.id OR (own.id IS NULL AND r.package_id = w.package_id)
            WHERE w.wallet_id = failed.wallet_id;
            IF watched.stopped_at IS NULL AND watched.failed_requests >= allowed THEN
                UPDATE wallet_watches SET stopped_at = clock_timestamp(), stopped_reason = why
                WHERE wallet_id = failed.wallet_id;
                INSERT INTO webhook_events (type, wallet_id, user_id, data)
                VALUES ('topup.stopped', failed.wallet_id, failed.user_id, jsonb_build_object(
                    'user_id', failed.user_id, 'reason', why, 'failed_requests', watched.failed_requests,
                    'request_id', failed.id, 'reference', failed.reference
                ));
            END IF;
        END
        $$;
    """)
