"""Ways to break the database of a run, so that money really is lost or billed twice: what the auditor must notice.

Each is SQL that stands in the test's database only; the server's code stays as it is.
"""

from __future__ import annotations

# Without the unique key on settled ends and without the append-only trigger: some ends stand in the ledger twice.
BILL_TWICE = """
    DROP INDEX token_transactions_usage_once;
    CREATE FUNCTION sabotage() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF pg_trigger_depth() = 1 AND NEW.kind = 'usage' AND NEW.id % 20 = 0 THEN
            INSERT INTO token_transactions (
                user_id, kind, amount_micros, balance_after_micros, base_cost_micros, profit_micros, cost_micros,
                input_tokens, output_tokens, end_id, reference
            ) VALUES (
                NEW.user_id, 'usage', NEW.amount_micros, NEW.balance_after_micros + NEW.amount_micros,
                NEW.base_cost_micros, NEW.profit_micros, NEW.cost_micros, NEW.input_tokens, NEW.output_tokens,
                NEW.end_id, NEW.reference
            );
            UPDATE wallets SET posted_micros = posted_micros + NEW.amount_micros WHERE user_id = NEW.user_id;
        END IF;
        RETURN NEW;
    END $$;
    CREATE TRIGGER sabotage AFTER INSERT ON token_transactions FOR EACH ROW EXECUTE FUNCTION sabotage();
"""

# What keeps a key from being accepted twice is gone: every repeat is a new end.
FORGET_KEYS = """
    DROP INDEX end_keys_idempotency_key;
    DROP INDEX end_keys_process_id;
    CREATE INDEX end_keys_idempotency_key ON end_keys (idempotency_key);
    CREATE INDEX end_keys_process_id ON end_keys (process_id);
"""

# Some accepted ends vanish from the inbox after they were answered.
LOSE_ENDS = """
    CREATE FUNCTION sabotage() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF hashtext(NEW.idempotency_key) % 20 = 0 THEN
            DELETE FROM end_inbox WHERE id = NEW.id;
        END IF;
        RETURN NULL;
    END $$;
    CREATE TRIGGER sabotage AFTER INSERT ON end_inbox FOR EACH ROW EXECUTE FUNCTION sabotage();
"""

# Which kind of violation each must lead to.
SABOTAGES: dict[str, tuple[str, str]] = {
    "bill-twice": (BILL_TWICE, "double"),
    "forget-keys": (FORGET_KEYS, "double"),
    "lose-ends": (LOSE_ENDS, "lost"),
}
