"""Background work: cleaning up after processes that died and stores that were away, watching stores, reconciling."""
