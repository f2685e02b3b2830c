"""Use cases of operators: wallets, failed ends, keys, reports, archives, the numbers to watch."""
