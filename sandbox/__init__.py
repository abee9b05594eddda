"""Runs untrusted code inside hard limits."""
