"""Daily roll-ups of what was used and earned, written with the ledger by a trigger, so that no writer forgets them."""

from __future__ import annotations

from alembic import op

revision = "0016"
down_revision = "0015"


def upgrade() -> None:
    op.execute("""
        -- A write-off says of which run it is. Those from before learn it from the run's own entry, once.
        ALTER TABLE token_transactions DISABLE TRIGGER token_transactions_append_only;
        UPDATE token_transactions AS w SET
            feature_endpoint_id = u.feature_endpoint_id, model = u.model, price_id = u.price_id
        FROM token_transactions AS u
        WHERE w.kind = 'write_off' AND w.feature_endpoint_id IS NULL AND u.kind = 'usage' AND u.end_id = w.end_id;
        ALTER TABLE token_transactions ENABLE TRIGGER token_transactions_append_only;

        CREATE TABLE usage_daily (
            day date NOT NULL,
            wallet_id text NOT NULL,
            user_id text NOT NULL,
            feature_endpoint_id text NOT NULL,
            -- '': the run named none.
            model text NOT NULL,
            -- 0: priced by the default rule.
            price_id bigint NOT NULL,
            runs bigint NOT NULL,
            input_tokens bigint NOT NULL,
            output_tokens bigint NOT NULL,
            cached_input_tokens bigint NOT NULL,
            cache_write_tokens bigint NOT NULL,
            reasoning_tokens bigint NOT NULL,
            requests bigint NOT NULL,
            -- Numeric: what a day adds up to past 64 bits mustn't stop the settlement that adds to it.
            base_cost_micros numeric NOT NULL,
            profit_micros numeric NOT NULL,
            cost_micros numeric NOT NULL,
            reversed_micros numeric NOT NULL,
            amended_micros numeric NOT NULL,
            written_off_micros numeric NOT NULL,
            PRIMARY KEY (day, wallet_id, user_id, feature_endpoint_id, model, price_id)
        -- Room on each page for the next versions of its rows, so that adding to them stays off the index.
        ) WITH (fillfactor = 70);

        INSERT INTO usage_daily
        SELECT (created_at AT TIME ZONE 'UTC')::date, wallet_id, user_id, coalesce(feature_endpoint_id, ''),
            coalesce(model, ''), coalesce(price_id, 0),
            count(*) FILTER (WHERE kind = 'usage'),
            coalesce(sum(input_tokens) FILTER (WHERE kind = 'usage'), 0),
            coalesce(sum(output_tokens) FILTER (WHERE kind = 'usage'), 0),
            coalesce(sum(cached_input_tokens) FILTER (WHERE kind = 'usage'), 0),
            coalesce(sum(cache_write_tokens) FILTER (WHERE kind = 'usage'), 0),
            coalesce(sum(reasoning_tokens) FILTER (WHERE kind = 'usage'), 0),
            coalesce(sum(requests) FILTER (WHERE kind = 'usage'), 0),
            coalesce(sum(base_cost_micros) FILTER (WHERE kind = 'usage'), 0),
            coalesce(sum(profit_micros) FILTER (WHERE kind = 'usage'), 0),
            coalesce(sum(cost_micros) FILTER (WHERE kind = 'usage'), 0),
            coalesce(sum(amount_micros) FILTER (WHERE kind = 'reversal'), 0),
            coalesce(sum(amount_micros) FILTER (WHERE kind = 'amendment'), 0),
            coalesce(sum(amount_micros) FILTER (WHERE kind = 'write_off'), 0)
        FROM token_transactions
        WHERE kind IN ('usage', 'reversal', 'amendment')
            -- What was charged back and written off is about no run.
            OR (kind = 'write_off' AND feature_endpoint_id IS NOT NULL)
        GROUP BY 1, 2, 3, 4, 5, 6;

        -- Rows are touched in the order of their key, and their wallets are locked by whoever writes to the ledger: two
        -- writers meet on no row.
        CREATE FUNCTION roll_up_usage() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            INSERT INTO usage_daily AS d
            SELECT (created_at AT TIME ZONE 'UTC')::date, wallet_id, user_id, coalesce(feature_endpoint_id, ''),
                coalesce(model, ''), coalesce(price_id, 0),
                count(*) FILTER (WHERE kind = 'usage'),
                coalesce(sum(input_tokens) FILTER (WHERE kind = 'usage'), 0),
                coalesce(sum(output_tokens) FILTER (WHERE kind = 'usage'), 0),
                coalesce(sum(cached_input_tokens) FILTER (WHERE kind = 'usage'), 0),
                coalesce(sum(cache_write_tokens) FILTER (WHERE kind = 'usage'), 0),
                coalesce(sum(reasoning_tokens) FILTER (WHERE kind = 'usage'), 0),
                coalesce(sum(requests) FILTER (WHERE kind = 'usage'), 0),
                coalesce(sum(base_cost_micros) FILTER (WHERE kind = 'usage'), 0),
                coalesce(sum(profit_micros) FILTER (WHERE kind = 'usage'), 0),
                coalesce(sum(cost_micros) FILTER (WHERE kind = 'usage'), 0),
                coalesce(sum(amount_micros) FILTER (WHERE kind = 'reversal'), 0),
                coalesce(sum(amount_micros) FILTER (WHERE kind = 'amendment'), 0),
                coalesce(sum(amount_micros) FILTER (WHERE kind = 'write_off'), 0)
            FROM added
            WHERE kind IN ('usage', 'reversal', 'amendment')
                OR (kind = 'write_off' AND feature_endpoint_id IS NOT NULL)
            GROUP BY 1, 2, 3, 4, 5, 6 ORDER BY 1, 2, 3, 4, 5, 6
            ON CONFLICT (day, wallet_id, user_id, feature_endpoint_id, model, price_id) DO UPDATE SET
                runs = d.runs + excluded.runs,
                input_tokens = d.input_tokens + excluded.input_tokens,
                output_tokens = d.output_tokens + excluded.output_tokens,
                cached_input_tokens = d.cached_input_tokens + excluded.cached_input_tokens,
                cache_write_tokens = d.cache_write_tokens + excluded.cache_write_tokens,
                reasoning_tokens = d.reasoning_tokens + excluded.reasoning_tokens,
                requests = d.requests + excluded.requests,
                base_cost_micros = d.base_cost_micros + excluded.base_cost_micros,
                profit_micros = d.profit_micros + excluded.profit_micros,
                cost_micros = d.cost_micros + excluded.cost_micros,
                reversed_micros = d.reversed_micros + excluded.reversed_micros,
                amended_micros = d.amended_micros + excluded.amended_micros,
                written_off_micros = d.written_off_micros + excluded.written_off_micros;
            RETURN NULL;
        END
        $$;
        CREATE TRIGGER token_transactions_roll_up AFTER INSERT ON token_transactions
            REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION roll_up_usage();

        -- By which an export or an archive of some days finds where they begin, without reading what lies before.
        CREATE INDEX token_transactions_created_at ON token_transactions (created_at);
        -- Everything but usage is rare, and asked for by its kind.
        CREATE INDEX token_transactions_not_usage ON token_transactions (id) WHERE kind <> 'usage';
    """)
