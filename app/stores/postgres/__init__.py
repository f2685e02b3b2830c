"""Postgres, the source of truth. Each function runs on the connection it is given; only services open transactions."""
