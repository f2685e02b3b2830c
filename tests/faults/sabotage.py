"""Ways to break the database of a run so that money really is lost or billed twice: the auditor must notice each.

Each is SQL in the test's database only; the server's code isn't changed.
"""

from __future__ import annotations

from dataclasses import dataclass

# Without the unique index on settled ends and without the append-only trigger, some ends are in the ledger twice.
BILL_TWICE = """
    DROP INDEX token_transactions_usage_once;
    CREATE FUNCTION sabotage() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF pg_trigger_depth() = 1 AND NEW.kind = 'usage' AND NEW.id % 20 = 0 THEN
            INSERT INTO token_transactions (
                wallet_id, user_id, kind, amount_micros, balance_after_micros, base_cost_micros, profit_micros,
                cost_micros, input_tokens, output_tokens, end_id, reference
            ) VALUES (
                NEW.wallet_id, NEW.user_id, 'usage', NEW.amount_micros, NEW.balance_after_micros + NEW.amount_micros,
                NEW.base_cost_micros, NEW.profit_micros, NEW.cost_micros, NEW.input_tokens, NEW.output_tokens,
                NEW.end_id, NEW.reference
            );
            UPDATE wallets SET posted_micros = posted_micros + NEW.amount_micros WHERE wallet_id = NEW.wallet_id;
        END IF;
        RETURN NEW;
    END $$;
    CREATE TRIGGER sabotage AFTER INSERT ON token_transactions FOR EACH ROW EXECUTE FUNCTION sabotage();
"""

# Without the unique indexes on keys, every repeat is a new end.
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

# Spool entries that are put aside vanish.
LOSE_ASIDE = """
    CREATE FUNCTION sabotage() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
    CREATE TRIGGER sabotage BEFORE INSERT ON spool_aside FOR EACH ROW EXECUTE FUNCTION sabotage();
"""

# Another body under a used key, accepted while Postgres was away, vanishes.
LOSE_REUSED = """
    CREATE FUNCTION sabotage() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        DELETE FROM end_inbox WHERE id = NEW.id AND NEW.last_error = 'idempotency_key_reused';
        RETURN NULL;
    END $$;
    CREATE TRIGGER sabotage AFTER INSERT OR UPDATE ON end_inbox FOR EACH ROW EXECUTE FUNCTION sabotage();
"""

# The cache epoch never rises, so cached wallets never become void.
KEEP_EPOCH = """
    CREATE FUNCTION sabotage() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        NEW.cache_epoch := OLD.cache_epoch;
        RETURN NEW;
    END $$;
    CREATE TRIGGER sabotage BEFORE UPDATE ON system_state FOR EACH ROW EXECUTE FUNCTION sabotage();
"""

# Some runs have the right cost, but base cost and profit that don't follow from their price.
MISPRICE = """
    CREATE FUNCTION sabotage() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        NEW.base_cost_micros := NEW.base_cost_micros + 1;
        NEW.profit_micros := NEW.profit_micros - 1;
        RETURN NEW;
    END $$;
    CREATE TRIGGER sabotage BEFORE INSERT ON token_transactions FOR EACH ROW
        WHEN (NEW.price_id IS NOT NULL AND NEW.id % 5 = 0) EXECUTE FUNCTION sabotage();
"""

# Accepting and settling an end are slow for bystanders, each within every time limit.
DELAY_BYSTANDERS = """
    CREATE FUNCTION sabotage() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        -- Twice this is too long for a bystander; once is within a statement's time limit.
        PERFORM pg_sleep(1.6);
        RETURN NEW;
    END $$;
    CREATE TRIGGER sabotage BEFORE INSERT ON end_inbox FOR EACH ROW
        WHEN (NEW.user_id LIKE 'probe-%') EXECUTE FUNCTION sabotage();
    CREATE TRIGGER sabotage BEFORE INSERT ON token_transactions FOR EACH ROW
        WHEN (NEW.user_id LIKE 'probe-%' AND NEW.kind = 'usage') EXECUTE FUNCTION sabotage();
"""


@dataclass(frozen=True, slots=True)
class Sabotage:
    statements: str
    # The kind of violation that it must lead to ...
    kind: str
    # ... with these faults. Redis remembers keys too, so only after a flush are the database's keys the only ones.
    plan: tuple[str, ...] = ("flush", "flush", "flush")


SABOTAGES = {
    "bill-twice": Sabotage(BILL_TWICE, "double"),
    "forget-keys": Sabotage(FORGET_KEYS, "double"),
    "lose-ends": Sabotage(LOSE_ENDS, "lost"),
    "lose-aside": Sabotage(LOSE_ASIDE, "poison", ("poisoned-spool",)),
    "lose-reused": Sabotage(LOSE_REUSED, "lost", ("poisoned-spool",)),
    "keep-epoch": Sabotage(KEEP_EPOCH, "cache", ("older-postgres",)),
    "misprice": Sabotage(MISPRICE, "price", ("beat", "beat")),
    "delay-bystanders": Sabotage(DELAY_BYSTANDERS, "slow", ("beat",)),
}
