"""The Celery side: tasks decode their message, call one service and return."""
