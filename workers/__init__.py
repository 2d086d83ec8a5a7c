"""Celery workers: where database and torch meet, and nothing more."""
