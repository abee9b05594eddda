"""The audit: noted in each change's own transaction, sealed a moment later.

Sealing apart keeps those who submit at once from waiting for one row.
"""

from __future__ import annotations

import logging

from fumehood.domain import audit
from fumehood.domain.audit import AuditEntry, Chain
from fumehood.errors import TamperedError
from fumehood.ports import Clock, Store, Transaction

_LOG = logging.getLogger("fumehood.audit")
Detail = str | int | float | bool | None


def entry(
    clock: Clock, actor: str, action: str, *, tenant: str = "", subject: str = "", **detail: Detail
) -> AuditEntry:
    """Return what says who changed what, just now."""
    return AuditEntry(
        id=clock.new_id("evt"),
        actor=actor,
        action=action,
        tenant=tenant,
        subject=subject,
        detail=detail,
        at=clock.now(),
    )


def note(
    tx: Transaction, clock: Clock, actor: str, action: str, *, tenant: str = "", subject: str = "", **detail: Detail
) -> None:
    """Write down who changed what."""
    tx.audit.append(entry(clock, actor, action, tenant=tenant, subject=subject, **detail))


def seal(store: Store) -> int:
    """Bind what was written since into the chain; return how many entries that were."""
    with store.begin(write=False) as tx:
        if not tx.audit.unsealed(limit=1):
            return 0
    with store.begin() as tx:
        before, fresh = tx.audit.last_seal(), tx.audit.unsealed()
        for entry in fresh:
            before = audit.seal(before, entry)
            tx.audit.seal(entry.seq, before)
    if fresh:
        # Where the log is kept apart from the database, it proves that nothing was cut off the chain's end.
        _LOG.info("the audit is sealed up to %d:%s", fresh[-1].seq, before)
    return len(fresh)


def verify(store: Store, head: str = "") -> Chain:
    """Walk the whole chain and say how far it holds, or raise `TamperedError` at the first entry that does not.

    A chain that was cut at its end holds as far as it goes: only an earlier `head` (`Chain.head`) shows that.
    """
    at, _, known = head.partition(":")
    seq, before, count, is_met = 0, "", 0, not head
    while True:
        with store.begin(write=False) as tx:
            page = tx.audit.since(seq)
        sealed = [entry for entry in page if entry.seal]
        before = audit.verify(sealed, before)
        is_met = is_met or any(entry.seq == int(at) and entry.seal == known for entry in sealed)
        count += len(sealed)
        seq = sealed[-1].seq if sealed else seq
        if not page or len(sealed) < len(page):
            break
    if not is_met:
        raise TamperedError(
            f"The audit has no entry {at} with the seal that was given: its end was cut off, or written anew."
        )
    return Chain(entries=count, seq=seq, seal=before)
