"""What an audit of an edit finds before the edit runs."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Severity(StrEnum):
    """What becomes of an edit with such a finding."""

    REFUSED = "refused"
    """It does not run; the coder is told and asked again."""
    FLAGGED = "flagged"
    """It runs, and the finding is shown with the experiment."""


class FindingKind(StrEnum):
    """What the edit does that it should not."""

    FILE = "file"
    UNREADABLE = "unreadable"
    IMPORT = "import"
    NETWORK = "network"
    PROCESS = "process"
    LIMITS = "limits"
    PATH = "path"
    ENVIRONMENT = "environment"
    HELD_OUT = "held_out"
    SEEDS = "seeds"
    PATCH = "patch"
    DYNAMIC_CODE = "dynamic_code"
    UNSAFE_LOAD = "unsafe_load"
    LITERAL = "literal"
    METRIC = "metric"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that an edit brings."""

    kind: FindingKind
    severity: Severity
    path: str
    line: int
    what: str
    """What was found, without its place: what was found before an edit too, the edit did not bring."""
    advice: str
    """What to do instead."""

    @property
    def sentence(self) -> str:
        """What the coder and people read."""
        return f"{self.path} line {self.line} {self.what}: {self.advice}."
