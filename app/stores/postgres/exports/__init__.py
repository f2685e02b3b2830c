"""Exports: tables that leave Postgres by COPY, as large as they are."""
