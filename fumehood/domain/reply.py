"""What was answered to a request that carried an idempotency key, so that it is carried out once."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from fumehood.domain.ids import TenantId

KEPT_S = 24 * 3600.0
"""How long the same key means the same request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """One answer; its id is made of the tenant and its key."""

    id: str
    request: str
    """SHA-256 of what was asked: method, path and body."""
    made: str
    """The id of what it made."""
    at: float = 0.0


def reply_id(tenant: TenantId, key: str) -> str:
    """Return the id under which the answer to a tenant's key is kept."""
    return hashlib.sha256(f"{tenant}\n{key}".encode()).hexdigest()
