"""Webhooks, and the balance rules by which low balances are reported and top-ups requested through them."""
