"""Reading what an administrator sees: tenants, keys, leases, the audit."""

from __future__ import annotations

import re

from fumehood.domain.audit import AuditEntry
from fumehood.domain.ids import ULID
from fumehood.domain.machine import Lease
from fumehood.domain.tenant import Key, Tenant
from fumehood.errors import NotFoundError
from fumehood.ports import Store


def tenants(store: Store, after: str | None, limit: int) -> tuple[Tenant, ...]:
    """Return a page of the tenants, oldest first."""
    with store.begin(write=False) as tx:
        return tx.tenants.page(after, limit)


def tenant(store: Store, key: str) -> Tenant:
    """Return a tenant by its id or its name; `NotFoundError` when there is none."""
    is_id = re.fullmatch(rf"ten_{ULID}", key)
    with store.begin(write=False) as tx:
        found = tx.tenants.find(id=key) if is_id else tx.tenants.find(name=key)
    if not found:
        raise NotFoundError("There is no tenant with this id or name.")
    return found[0]


def keys(store: Store, after: str | None, limit: int) -> tuple[Key, ...]:
    """Return a page of the keys, oldest first."""
    with store.begin(write=False) as tx:
        return tx.keys.page(after, limit)


def key(store: Store, key_id: str) -> Key:
    """Return a key by its id; `NotFoundError` when there is none."""
    if not re.fullmatch(rf"key_{ULID}", key_id):
        raise NotFoundError("There is no key with this id.")
    with store.begin(write=False) as tx:
        return tx.keys.get(key_id)


def leases(store: Store, after: str | None, limit: int) -> tuple[Lease, ...]:
    """Return a page of the leases that hold something now."""
    with store.begin(write=False) as tx:
        return tx.leases.page(after, limit, ended_at=None)


def audit(store: Store, seq: int, limit: int) -> tuple[AuditEntry, ...]:
    """Return the audit's entries after a number."""
    with store.begin(write=False) as tx:
        return tx.audit.since(seq, limit)
