"""The Celery side: a task decodes its message, calls one service and returns."""
