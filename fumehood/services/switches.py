"""Pausing work, of one tenant or of all, and letting it go on."""

from __future__ import annotations

from fumehood.domain.ids import TenantId
from fumehood.domain.tenant import PLATFORM, Switch
from fumehood.ports import Clock, Store, Transaction
from fumehood.services import audit
from fumehood.services.replies import Once, keep, made_by


def is_paused(tx: Transaction, tenant: TenantId) -> bool:
    """Whether nothing new begins for a tenant."""
    return any(found.is_paused for key in (PLATFORM, tenant) for found in tx.switches.find(id=key))


def is_killed(tx: Transaction, tenant: TenantId) -> bool:
    """Whether what runs for a tenant is to be stopped."""
    return any(found.is_killed for key in (PLATFORM, tenant) for found in tx.switches.find(id=key))


def pause(
    store: Store, clock: Clock, actor: str, tenant: TenantId | None, *, kill: bool, once: Once | None = None
) -> Switch:
    """Begin nothing new, for one tenant or for all; with `kill`, stop also what runs, which is begun again later."""
    switch = Switch(id=tenant or PLATFORM, is_paused=True, is_killed=kill, at=clock.now())
    return _set(store, clock, actor, switch, "work.killed" if kill else "work.paused", once)


def resume(store: Store, clock: Clock, actor: str, tenant: TenantId | None, once: Once | None = None) -> Switch:
    """Let work go on where it stood."""
    return _set(store, clock, actor, Switch(id=tenant or PLATFORM, at=clock.now()), "work.resumed", once)


def _set(store: Store, clock: Clock, actor: str, switch: Switch, action: str, once: Once | None) -> Switch:
    with store.begin() as tx:
        if known := made_by(tx, clock, once):
            return tx.switches.get(known)
        if switch.id != PLATFORM:
            tx.tenants.get(switch.id)
        tx.switches.save(switch)
        keep(tx, clock, once, switch.id)
        audit.note(tx, clock, actor, action, tenant="" if switch.id == PLATFORM else switch.id, subject=switch.id)
    return switch
