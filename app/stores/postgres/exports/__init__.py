"""Exports: tables of any size, read from Postgres by COPY."""
