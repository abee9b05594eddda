"""The audit of an edit before it runs: what it brings that has no place in an experiment's code."""

from fumehood.services.edit_audit.audit import audit
from fumehood.services.edit_audit.source import Rules

__all__ = ["Rules", "audit"]
