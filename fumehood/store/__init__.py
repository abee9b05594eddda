"""Repositories: SQL and in memory."""
