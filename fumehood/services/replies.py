"""Carrying a request out once, however often it is sent: its idempotency key is stored with what it made."""

from __future__ import annotations

from dataclasses import dataclass

from fumehood.domain.ids import TenantId
from fumehood.domain.reply import KEPT_S, Reply, reply_id
from fumehood.errors import BadInputError
from fumehood.ports import Clock, Transaction

FORGOTTEN_AT_ONCE = 20
"""More than one, so that the table shrinks to what is asked for; few, so that nobody waits for it."""


@dataclass(slots=True, kw_only=True)
class Once:
    """A request that carries an idempotency key."""

    tenant: TenantId
    key: str
    request: str
    """SHA-256 of its method, path and body."""
    was_replayed: bool = False
    """Set when it had been carried out before."""


def made_by(tx: Transaction, clock: Clock, once: Once | None) -> str | None:
    """Return the id of what this request made before, in the transaction that would make it; None the first time.

    Raises `BadInputError` when the same key came with another request.
    """
    if once is None:
        return None
    found = tx.replies.find(id=reply_id(once.tenant, once.key))
    if not found or clock.now() - found[0].at > KEPT_S:
        return None
    if found[0].request != once.request:
        raise BadInputError("This Idempotency-Key came with another request before; use a new one.")
    once.was_replayed = True
    return found[0].made


def keep(tx: Transaction, clock: Clock, once: Once | None, made: str) -> None:
    """Store what a request made, in the same transaction, and forget some of what is too old to be asked for."""
    if once is not None:
        key, now = reply_id(once.tenant, once.key), clock.now()
        tx.replies.forget(key, before=now - KEPT_S, most=FORGOTTEN_AT_ONCE)
        tx.replies.save(Reply(id=key, request=once.request, made=made, at=now))
