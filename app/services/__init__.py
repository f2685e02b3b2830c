"""One use case per file. A service knows the stores and the domain, and nothing of Flask or Celery."""
