"""The stores: Postgres (the source of truth), Redis (the cached wallets) and the queue (which wakes the workers)."""
