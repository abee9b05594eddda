"""A person's comment on work under way; the next step that asks a model reads it."""

from __future__ import annotations

from dataclasses import dataclass

from fumehood.domain.ids import DirectionId, ExperimentId

LONGEST = 4000


@dataclass(frozen=True, slots=True, kw_only=True)
class Feedback:
    """One comment."""

    id: str
    direction_id: DirectionId
    experiment_id: ExperimentId | None = None
    """None where it is about the whole direction."""
    author: str
    """The key it came with."""
    text: str
    at: float = 0.0
