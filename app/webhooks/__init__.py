"""Telling others what happened: webhooks, and the rules by which wallets are told of."""
