"""What is read of the log over the wire."""

from __future__ import annotations

import json
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from fumehood.domain.log import TreeHead
from fumehood.services.log_reading import Continued, Included

_ROOT = "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328"
_HASH = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
_ENVELOPE = {
    "payloadType": "application/vnd.fumehood.tree-head+json",
    "payload": "eyJhdCI6MS41LCJyb290IjoiNWRjOSIsInNpemUiOjM3fQ==",
    "signatures": [{"keyid": f"sha256:{_HASH}", "sig": "c2lnbmF0dXJl"}],
}
_ENTRY = {
    "at": 1764446400.25,
    "attempt": 1,
    "code": _HASH,
    "direction": "dir_01kaw3v6rsv2xq8s5y9m4tz7hn",
    "experiment": "exp_01kaw3vb4n8p1r5t9w2y6z0a3c",
    "folder": "run_2",
    "index": 2,
    "kind": "record",
    "number": 3,
    "record": _HASH,
    "run": "run_01kaw3vd7f2g6h0j4k8m1n5p9q",
    "shared": False,
    "verdict": "measured",
}


def _example(**fields: Any) -> ConfigDict:
    return ConfigDict(json_schema_extra={"examples": [fields]})


class TreeHeadRead(BaseModel):
    """What the installation says of its whole log, as of a time."""

    model_config = _example(size=37, root=_ROOT, at=1764446400.25, envelope=_ENVELOPE)
    size: int
    root: str
    """SHA-256 in hex, by RFC 6962."""
    at: float
    envelope: dict[str, Any]
    """The same, signed: a DSSE envelope."""

    @classmethod
    def of(cls, head: TreeHead) -> TreeHeadRead:
        """Return what is read of a tree head."""
        return cls(size=head.size, root=head.root, at=head.at, envelope=json.loads(head.envelope))


class IncludedRead(BaseModel):
    """The proof that a leaf is in the log."""

    model_config = _example(leaf=36, size=37, hash=_HASH, root=_ROOT, proof=[_HASH], entry=_ENTRY)
    leaf: int
    """From 0."""
    size: int
    hash: str
    """Of the leaf."""
    root: str
    proof: list[str]
    entry: dict[str, Any] | None
    """What the hash is of, as JSON in ASCII with sorted names and without spaces; null for another tenant's."""

    @classmethod
    def of(cls, found: Included) -> IncludedRead:
        """Return what is read of a proof."""
        return cls(
            leaf=found.leaf,
            size=found.size,
            hash=found.hash,
            root=found.root,
            proof=found.proof,
            entry=found.entry,
        )


class ContinuedRead(BaseModel):
    """The proof that the log only grew."""

    model_config = ConfigDict(
        populate_by_name=True,
        json_schema_extra={
            "examples": [{"from": 30, "to": 37, "from_root": _HASH, "to_root": _ROOT, "proof": [_HASH]}]
        },
    )
    old: int = Field(alias="from")
    new: int = Field(alias="to")
    from_root: str
    to_root: str
    proof: list[str]

    @classmethod
    def of(cls, found: Continued) -> ContinuedRead:
        """Return what is read of a proof."""
        return cls(old=found.old, new=found.new, from_root=found.old_root, to_root=found.new_root, proof=found.proof)
