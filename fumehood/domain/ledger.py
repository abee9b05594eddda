"""What was spent, on what, by whom."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from fumehood.domain.ids import DirectionId, ExperimentId, TenantId
from fumehood.domain.quota import Balance


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
    prompt: str = ""
    """The name of the prompt file that was asked with."""
    prompt_sha256: str = ""
    """Of that file before it was filled in."""
    playbook: str = ""
    """SHA-256 of the template's `offline.toml`; used by the offline model only."""
    id: str = ""
    """The token's own name, `tok_` and a ULID; the same for all calls of one role in one claim of a step."""
    step: str = ""
    """The step that it was minted for; it opens nothing once another fence, or nobody, holds that."""
    execution: str = ""
    """The execution whose program asks; such a token opens nothing once that has ended, or has another fence."""
    fence: int = 0
    cap_usd: float | None = None
    """What all calls with this token may cost together, beside the caps of what they are for; None: no own cap."""
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
    """What it is for: a call of a model, or an execution."""
    tenant: TenantId
    direction_id: DirectionId
    experiment_id: ExperimentId | None = None
    token: str = ""
    """The id of the token that a call was made with."""
    kind: str
    """`reserved`, `settled` or `released`."""
    role: str
    """Of a call; of an execution, its kind."""
    model: str
    usd: float = 0.0
    """Positive for a reservation; a settlement books the difference, so that the sum is what was spent.

    The same holds of what follows, down to `gpus`.
    """
    tokens: int = 0
    cpu_s: float = 0.0
    gpu_s: float = 0.0
    wall_s: float = 0.0
    bytes: int = 0
    running: int = 0
    gpus: int = 0
    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    """These three say what a settled call really used."""
    day: str = ""
    """The day that it is booked on, that of the reservation."""
    at: float = 0.0


def day_of(at: float) -> str:
    """Return the day of a time, in UTC."""
    return datetime.fromtimestamp(at, UTC).date().isoformat()


def day_account(tenant: TenantId, day: str) -> str:
    """Return the account of what a tenant spends on one day."""
    return f"{tenant}/{day}"


def accounts(entry: LedgerEntry) -> tuple[str, ...]:
    """Return the accounts that an entry counts in; the narrower ones only where it has them."""
    narrower = tuple(key for key in (entry.experiment_id, entry.token) if key)
    return (entry.direction_id, entry.tenant, day_account(entry.tenant, entry.day), *narrower)


def plus(balance: Balance, entry: LedgerEntry) -> Balance:
    """Return a balance with one entry more."""
    return Balance(
        id=balance.id,
        usd=balance.usd + entry.usd,
        tokens=balance.tokens + entry.tokens,
        input_tokens=balance.input_tokens + entry.input_tokens,
        cached_tokens=balance.cached_tokens + entry.cached_tokens,
        output_tokens=balance.output_tokens + entry.output_tokens,
        cpu_s=balance.cpu_s + entry.cpu_s,
        gpu_s=balance.gpu_s + entry.gpu_s,
        wall_s=balance.wall_s + entry.wall_s,
        bytes=balance.bytes + entry.bytes,
        running=balance.running + entry.running,
        gpus=balance.gpus + entry.gpus,
    )


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


@dataclass(frozen=True, slots=True, kw_only=True)
class CallText:
    """The bodies of a call that lie beside its record; one that is empty here lies with the artifacts, if anywhere."""

    id: str
    """The call's."""
    request: bytes = b""
    reply: bytes = b""
