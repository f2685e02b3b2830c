"""Redis: the cached wallets that start and end are decided on. It may be flushed at any moment; nothing is lost."""
