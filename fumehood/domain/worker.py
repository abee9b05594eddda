"""A worker process and when it was last seen at work."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Part(StrEnum):
    """What a worker process does."""

    WRITE = "write"
    RUN = "run"
    WATCH = "watch"


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker:
    """One worker process."""

    id: str
    part: Part
    seen_at: float
    """When it last asked for work, renewed a lease or looked at the containers."""
