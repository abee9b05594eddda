"""Structured answers, prompts and coders."""
