"""Who asks a model what for: the claims that each call carries."""

from __future__ import annotations

from fumehood.domain.direction import Direction
from fumehood.domain.experiment import Experiment
from fumehood.domain.ledger import Claims

TOKEN_LIFE_S = 3600.0
"""Longer than any one call, shorter than a night."""


def claims_for(
    direction: Direction,
    role: str,
    *,
    experiment: Experiment | None = None,
    idea: str = "",
    index: int = 0,
    run: int = 0,
    attempt: int = 0,
    subject: str = "",
    now: float,
) -> Claims:
    """Return the claims of one call; reviews go to the direction's review model."""
    return Claims(
        tenant=direction.tenant,
        direction_id=direction.id,
        experiment_id=experiment.id if experiment else None,
        role=role,
        model=direction.review_model if role == "review" else direction.model,
        idea=idea,
        index=index,
        run=run,
        attempt=attempt,
        subject=subject,
        playbook=direction.template_files.get("offline.toml", ""),
        expires_at=now + TOKEN_LIFE_S,
    )
