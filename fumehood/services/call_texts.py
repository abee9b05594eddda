"""What was said in a recorded call, wherever it lies: beside the record, or, where it is long, with the artifacts."""

from __future__ import annotations

import hashlib

from fumehood.domain.ledger import CallText, ModelCall
from fumehood.errors import TamperedError
from fumehood.ports import Artifacts, Transaction


def said_in(tx: Transaction, artifacts: Artifacts, call: ModelCall) -> CallText:
    """Return both bodies of a call, empty where there was none; `TamperedError` for one that is not what was kept."""
    beside = next(iter(tx.call_texts.find(id=call.id)), CallText(id=call.id))
    return CallText(
        id=call.id,
        request=_whole(artifacts, call.request, beside.request),
        reply=_whole(artifacts, call.reply, beside.reply),
    )


def _whole(artifacts: Artifacts, sha256: str, beside: bytes) -> bytes:
    if not beside:
        return artifacts.get(sha256) if sha256 else b""
    if hashlib.sha256(beside).hexdigest() != sha256:
        raise TamperedError(f"The stored text {sha256} of a call no longer matches its hash.")
    return beside
