"""What operators look at and do: wallets, failed ends, the numbers to watch."""
