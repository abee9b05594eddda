"""API keys: issued, shown once, rotated, revoked, and asked for at the door."""

from __future__ import annotations

import dataclasses
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from fumehood.domain.ids import TenantId
from fumehood.domain.tenant import PLATFORM, Key, Scope, Tenant, digest, key_text
from fumehood.errors import BadInputError, ConflictError
from fumehood.ports import Clock, Store, Transaction
from fumehood.services import audit, tenants
from fumehood.services.replies import Once, keep, made_by

SHORTEST = 16
LONGEST_NAME = 100
_REVOKED = "key.revoked"
GIVEN = "FUMEHOOD_API_KEY"
"""The name of the admin key that the environment gives, and of those it is rotated to."""
OVERLAP_S = 24 * 3600.0
"""How long a key that was rotated still opens, unless something else is said."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who asks, by the key that was shown."""

    key: str
    tenant: TenantId
    scopes: tuple[Scope, ...]


def authenticate(store: Store, clock: Clock, text: str) -> Caller | None:
    """Return whose key a text is; None when it opens nothing."""
    with store.begin(write=False) as tx:
        found = tx.keys.find(digest=digest(text))
    if not found or not found[0].opens(text, clock.now()):
        return None
    return Caller(key=found[0].id, tenant=found[0].tenant, scopes=found[0].scopes)


def still_opens(store: Store, clock: Clock, key_id: str) -> bool:
    """Whether a key that was shown a while ago would be let in again."""
    with store.begin(write=False) as tx:
        return any(key.is_live(clock.now()) for key in tx.keys.find(id=key_id))


def issue(
    store: Store,
    clock: Clock,
    actor: str,
    *,
    tenant: TenantId,
    name: str,
    scopes: Sequence[Scope],
    lives_s: float | None = None,
    once: Once | None = None,
) -> tuple[Key, str]:
    """Return a new key and its text, which is shown this once and kept nowhere."""
    if not scopes:
        raise BadInputError(f"A key needs a scope: {', '.join(Scope)}.")
    if len(name) > LONGEST_NAME:
        raise BadInputError(f"The key's name is longer than {LONGEST_NAME} characters.")
    if name == GIVEN:
        raise BadInputError(f"{GIVEN} is the name of the key that the environment gives; choose another.")
    with store.begin() as tx:
        _make_once(tx, clock, once)
        key, text = _make(tx, clock, tx.tenants.get(tenant), name, tuple(dict.fromkeys(scopes)), lives_s)
        keep(tx, clock, once, key.id)
        _note_issued(tx, clock, key, actor)
    return key, text


def rotate(
    store: Store, clock: Clock, actor: str, key_id: str, overlap_s: float = OVERLAP_S, once: Once | None = None
) -> tuple[Key, str]:
    """Return a new key like an old one, which opens for a while still."""
    with store.begin() as tx:
        _make_once(tx, clock, once)
        old = tx.keys.get(key_id)
        now = clock.now()
        if not old.is_live(now):
            raise ConflictError("This key opens nothing any more; issue a new one.")
        lives_s = None if old.expires_at is None else old.expires_at - now
        key, text = _make(tx, clock, tx.tenants.get(old.tenant), old.name, old.scopes, lives_s)
        ends = now + overlap_s
        tx.keys.save(dataclasses.replace(old, expires_at=min(ends, old.expires_at or ends)))
        keep(tx, clock, once, key.id)
        audit.note(tx, clock, actor, "key.rotated", tenant=old.tenant, subject=old.id, by=key.id)
    return key, text


def revoke(store: Store, clock: Clock, actor: str, key_id: str) -> Key:
    """Let a key open nothing from now on; revoking twice is the same as once."""
    with store.begin() as tx:
        key = tx.keys.get(key_id)
        if key.revoked_at is None:
            key = dataclasses.replace(key, revoked_at=clock.now())
            tx.keys.save(key)
            audit.note(tx, clock, actor, _REVOKED, tenant=key.tenant, subject=key.id)
    return key


def first(store: Store, clock: Clock, given: str = "") -> str | None:
    """Make sure that somebody can administer: return the text of a new admin key where there was none, else None.

    A key that was `given` is kept as such a one, and is not returned; the one that was given before it is revoked.
    """
    if given and len(given) < SHORTEST:
        raise BadInputError(f"FUMEHOOD_API_KEY must be a key of at least {SHORTEST} characters.")
    with store.begin() as tx:
        local = tenants.local(tx, clock)
        if given:
            if not tx.keys.find(digest=digest(given)):
                _replace_given(tx, clock, local, given)
            return None
        if any(Scope.ADMIN in key.scopes and key.revoked_at is None for key in tx.keys.find()):
            return None
        key, text = _make(tx, clock, local, "first", tuple(Scope), None)
        _note_issued(tx, clock, key)
    return text


def _replace_given(tx: Transaction, clock: Clock, local: Tenant, given: str) -> None:
    """Keep a key that the environment gives for the first time.

    Whoever puts another in its place means the one before to be gone, and so what that one was rotated to.
    """
    now = clock.now()
    earlier = [key for key in tx.keys.find(tenant=local.id, name=GIVEN) if key.is_live(now)]
    made, _ = _make(tx, clock, local, GIVEN, tuple(Scope), None, given)
    _note_issued(tx, clock, made)
    for key in earlier:
        tx.keys.save(dataclasses.replace(key, revoked_at=now))
        audit.note(tx, clock, PLATFORM, _REVOKED, tenant=key.tenant, subject=key.id, by=made.id)


def _note_issued(tx: Transaction, clock: Clock, key: Key, actor: str = PLATFORM) -> None:
    audit.note(tx, clock, actor, "key.issued", tenant=key.tenant, subject=key.id, scopes=" ".join(key.scopes))


def _make_once(tx: Transaction, clock: Clock, once: Once | None) -> None:
    if made := made_by(tx, clock, once):
        raise ConflictError(f"This request made {made} before, and a key's text is shown once: rotate that key.")


def _make(
    tx: Transaction,
    clock: Clock,
    tenant: Tenant,
    name: str,
    scopes: tuple[Scope, ...],
    lives_s: float | None,
    given: str = "",
) -> tuple[Key, str]:
    key_id = clock.new_id("key")
    text = given or key_text(key_id, secrets.token_urlsafe(32))
    now = clock.now()
    key = Key(
        id=key_id,
        tenant=tenant.id,
        name=name,
        scopes=scopes,
        digest=digest(text),
        created_at=now,
        expires_at=None if lives_s is None else now + lives_s,
    )
    tx.keys.save(key)
    return key, text
