"""The database schema, step by step. `alembic upgrade head` brings a database up to date."""
