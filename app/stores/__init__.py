"""The stores: Postgres (the truth), Redis (the cached wallets) and the queue (the doorbell)."""
