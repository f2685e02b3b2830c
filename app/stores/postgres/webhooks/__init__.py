"""Webhooks in Postgres: endpoints with their secrets, events, deliveries and each attempt at one."""
