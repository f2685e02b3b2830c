"""Webhooks in Postgres: endpoints with their secrets, events, deliveries and their attempts."""
