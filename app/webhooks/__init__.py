"""Webhooks, and the rules by which low balances and top-ups that wallets need are reported through them."""
