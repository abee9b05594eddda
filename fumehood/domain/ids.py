"""Names of things: prefixes, patterns and the rewriting of idea names."""

from __future__ import annotations

import re
from typing import NewType

DirectionId = NewType("DirectionId", str)
IdeaId = NewType("IdeaId", str)
ExperimentId = NewType("ExperimentId", str)
RunId = NewType("RunId", str)
ExecutionId = NewType("ExecutionId", str)
TenantId = NewType("TenantId", str)

ULID = r"[0-9a-hjkmnp-tv-z]{26}"
PREFIXES = ("dir", "idea", "exp", "run", "exec", "ten", "key", "step", "evt", "call", "tok")
ID = re.compile(rf"(?:{'|'.join(PREFIXES)})_{ULID}\Z")
IDEA_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}\Z")


def container_name(execution: ExecutionId) -> str:
    """Return the deterministic container name of an execution."""
    return "fh-" + execution.removeprefix("exec_")


def idea_name(text: str) -> str:
    """Rewrite any text into a name that is safe as a folder: `^[a-z][a-z0-9_]{0,39}$`."""
    name = re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")
    if not name or not name[0].isalpha():
        name = f"idea_{name}".rstrip("_")
    return name[:40].rstrip("_")
