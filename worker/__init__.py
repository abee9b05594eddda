"""Celery tasks: decode ids, call one service, done."""
