"""Taking tokens of the gateway back before they end by themselves."""

from __future__ import annotations

import re

from fumehood.domain.ids import ULID
from fumehood.domain.token import LONGEST_EXECUTION_LIFE_S, Revocation
from fumehood.errors import NotFoundError
from fumehood.ports import Clock, Store
from fumehood.services import audit
from fumehood.services.replies import Once, keep, made_by


def revoke(store: Store, clock: Clock, actor: str, token: str, once: Once | None = None) -> Revocation:
    """Let a token open nothing from now on; revoking twice is the same as once.

    The platform keeps no list of its tokens, so any id that one could have is taken.
    """
    if not re.fullmatch(rf"tok_{ULID}", token):
        raise NotFoundError("There is no token with this id.")
    with store.begin() as tx:
        if not made_by(tx, clock, once):
            keep(tx, clock, once, token)
        if known := tx.revocations.find(id=token):
            return known[0]
        # What was revoked so long ago has ended by itself, whoever holds it.
        tx.revocations.forget(before=clock.now() - LONGEST_EXECUTION_LIFE_S)
        revoked = Revocation(id=token, at=clock.now())
        tx.revocations.save(revoked)
        audit.note(tx, clock, actor, "token.revoked", subject=token)
    return revoked
