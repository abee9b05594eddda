"""Use cases, one verb phrase a module."""
