"""How use cases reach the stores: gates, group commit, loading wallets into the cache and bringing changes there."""
