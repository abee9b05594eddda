"""What was spent, on what, by whom."""

from __future__ import annotations

from dataclasses import dataclass

from fumehood.domain.ids import DirectionId, ExperimentId, TenantId


@dataclass(frozen=True, slots=True, kw_only=True)
class Claims:
    """What a call to the model is for; bound into the caller's token, never taken from a prompt."""

    tenant: TenantId
    direction_id: DirectionId
    experiment_id: ExperimentId | None = None
    role: str
    """`idea, reflection, novelty, coder, plot, section, title, review` ..."""
    model: str
    idea: str = ""
    """The idea's name, where there is one."""
    index: int = 0
    """For `idea`: the how-maniest. For sections: 0."""
    run: int = 0
    attempt: int = 0
    subject: str = ""
    """For `section`: the section's name."""
    playbook: str = ""
    """SHA-256 of the template's `offline.toml`; used by the offline model only."""
    expires_at: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelUsage:
    """Tokens of one call."""

    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    usd: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerEntry:
    """One line of the ledger. A reservation is settled by a second line, never changed."""

    id: str
    call_id: str
    direction_id: DirectionId
    experiment_id: ExperimentId | None = None
    kind: str
    """`reserved`, `settled` or `released`."""
    role: str
    model: str
    usd: float
    """Positive for a reservation; a settlement books the difference, so that the sum is what was spent."""
    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    at: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCall:
    """One recorded call: what was asked and answered, without secrets."""

    id: str
    direction_id: DirectionId
    experiment_id: ExperimentId | None = None
    role: str
    model: str
    upstream: str
    claims: str
    """The claims as JSON, without expiry."""
    request: str
    """SHA-256 of the request body."""
    reply: str
    """SHA-256 of the reply body; empty when there was none."""
    status: int
    usage: ModelUsage = ModelUsage()
    at: float = 0.0
    duration_s: float = 0.0
