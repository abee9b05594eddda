"""The audit: noted in each change's own transaction, sealed a moment later.

Sealing apart keeps those who submit at once from waiting for one row.
"""

from __future__ import annotations

from fumehood.domain import audit
from fumehood.domain.audit import AuditEntry
from fumehood.ports import Clock, Store, Transaction

Detail = str | int | float | bool | None


def note(
    tx: Transaction, clock: Clock, actor: str, action: str, *, tenant: str = "", subject: str = "", **detail: Detail
) -> None:
    """Write down who changed what."""
    tx.audit.append(
        AuditEntry(
            id=clock.new_id("evt"),
            actor=actor,
            action=action,
            tenant=tenant,
            subject=subject,
            detail=detail,
            at=clock.now(),
        )
    )


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
    return len(fresh)


def verify(store: Store) -> int:
    """Walk the whole chain; return how many seals hold, or raise `TamperedError` at the first that does not."""
    seq, before, count = 0, "", 0
    while True:
        with store.begin(write=False) as tx:
            page = tx.audit.since(seq)
        sealed = [entry for entry in page if entry.seal]
        before = audit.verify(sealed, before)
        count += len(sealed)
        if not page or len(sealed) < len(page):
            return count
        seq = page[-1].seq
