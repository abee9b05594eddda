"""Who may do what: tenants, their keys, and the switch that stops everything."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from fumehood.domain.ids import ULID, TenantId

LOCAL_TENANT: Final = TenantId("ten_00000000000000000000000000")
"""Whoever works on this machine itself: `fumehood run`, and the first key of a server."""
LOCAL_ACTOR: Final = "local"
"""Whoever types a command on this machine."""
PLATFORM: Final = "platform"
"""The id of the switch that is everybody's, and who acts where no person does."""
_KEY = re.compile(rf"fh_({ULID})_([A-Za-z0-9_-]{{43}})\Z")


class Scope(StrEnum):
    """What a key opens."""

    READ = "read"
    WRITE = "write"
    ADMIN = "admin"
    """Tenants, keys, quotas, the switch: `/v1/admin`. It opens no other tenant's research,
    but for the texts that the policy wants an admin to look at.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class Tenant:
    """Those who share research, quotas and a bill; nothing of one is seen by another."""

    id: TenantId
    name: str
    weight: float = 1.0
    """Its share of what is scarce, beside the other tenants' weights."""
    quotas: Mapping[str, float] = field(default_factory=dict)
    """By name (`fumehood.domain.quota.QUOTAS`); what is absent is not limited."""
    created_at: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """An API key as it is kept: never its text, only what proves it."""

    id: str
    tenant: TenantId
    name: str
    scopes: tuple[Scope, ...]
    digest: str
    """SHA-256 of the key's text, which is random enough that no salt would add to it."""
    created_at: float = 0.0
    expires_at: float | None = None
    revoked_at: float | None = None

    def opens(self, text: str, now: float) -> bool:
        """Whether this text is the key, and it is neither revoked nor past its end."""
        return hmac.compare_digest(digest(text), self.digest) and self.is_live(now)

    def is_live(self, now: float) -> bool:
        """Whether it is neither revoked nor past its end."""
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)


@dataclass(frozen=True, slots=True, kw_only=True)
class Switch:
    """Whether work goes on: of one tenant (its id), or of all (`PLATFORM`)."""

    id: str
    is_paused: bool = False
    """Nothing new begins; what runs goes on."""
    is_killed: bool = False
    """What runs is stopped too, and begun again when work goes on."""
    at: float = 0.0


def digest(text: str) -> str:
    """Return what proves a key without being it."""
    return hashlib.sha256(text.encode()).hexdigest()


def key_text(key_id: str, secret: str) -> str:
    """Return a key as its holder writes it: `fh_<id>_<secret>`."""
    return f"fh_{key_id.removeprefix('key_')}_{secret}"


def key_id(text: str) -> str | None:
    """Return which key a text claims to be, or None when it is no key of ours."""
    found = _KEY.match(text)
    return f"key_{found[1]}" if found else None
