"""Redis: the cached wallets on which starts and ends are decided. It may be flushed at any moment; nothing is lost."""
