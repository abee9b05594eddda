"""The log of an installation: what its leaves and its tree heads hold."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from fumehood.domain.ids import DirectionId


class EntryKind(StrEnum):
    """What an entry of the log tells of."""

    RECORD = "record"
    """A run was measured, and its record signed."""
    ATTEMPT = "attempt"
    """An attempt ended without a record."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaf:
    """One entry, where it stands, and the hashes that it completed."""

    index: int
    """From 0, without gaps."""
    scope: str
    """The experiment that its `number` counts in; of a run that belongs to none, the run."""
    direction_id: DirectionId
    entry: str
    """Canonical JSON, to the byte what was hashed."""
    hashes: tuple[str, ...]
    """Of the complete subtrees that end with this leaf, from the leaf's own upwards; SHA-256 in hex."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeHead:
    """What the installation said of its whole log at one time."""

    size: int
    root: str
    """SHA-256 in hex."""
    at: float
    envelope: str
    """The same, signed: a DSSE envelope."""


def canonical(entry: Mapping[str, object]) -> str:
    """Return the one text that an entry is hashed as: JSON in ASCII, its names sorted, without spaces."""
    return json.dumps(entry, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
