"""Who changed what, in a chain that shows when an entry was changed or taken out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from fumehood.errors import TamperedError


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditEntry:
    """One change, written in the change's own transaction."""

    id: str
    actor: str
    """The key's id, or `platform`."""
    action: str
    """Such as `direction.submitted`, `key.revoked`, `quota.set`."""
    tenant: str = ""
    """Whose things were changed; empty for everybody's."""
    subject: str = ""
    """The id of what was changed."""
    detail: Mapping[str, str | int | float | bool | None] = field(default_factory=dict)
    at: float = 0.0
    seq: int = 0
    """Given by the store; grows with each entry."""
    seal: str = ""
    """Binds this entry and all before it; set once, by the sealer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    """How far the chain holds: whoever writes its head down elsewhere can tell later whether its end was cut off."""

    entries: int
    seq: int
    """Of the last entry that is sealed; 0 where none is."""
    seal: str

    @property
    def head(self) -> str:
        """The last entry and its seal, as `SEQ:SEAL`; empty where none is sealed."""
        return f"{self.seq}:{self.seal}" if self.seal else ""


HEAD = r"^[0-9]{1,19}:[0-9a-f]{64}$"
"""What a head looks like."""


def seal(before: str, entry: AuditEntry) -> str:
    """Return an entry's seal, given the seal of the one before it (empty for the first)."""
    told = [before, entry.seq, entry.id, entry.at, entry.actor, entry.tenant, entry.action, entry.subject]
    words = json.dumps([*told, dict(entry.detail)], sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(words.encode()).hexdigest()


def verify(entries: Iterable[AuditEntry], before: str = "") -> str:
    """Return the last seal of a chain that holds; `TamperedError` names the first entry that does not."""
    for entry in entries:
        if not entry.seal:
            break
        if entry.seal != seal(before, entry):
            raise TamperedError(f"The audit's entry {entry.seq} was changed, or one before it was taken out.")
        before = entry.seal
    return before
