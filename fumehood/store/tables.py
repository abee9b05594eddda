"""The tables, one row class for each kind of value; rows never leave this package."""

from __future__ import annotations

from typing import Any, Final, cast

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

_NAMES = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    "pk": "pk_%(table_name)s",
}
# An absent value is SQL's NULL, not JSON's, so that `find(outcome=None)` means what it says.
_JSON = JSON(none_as_null=True)
# Text is ordered by its bytes, as SQLite does, whatever language the server was set up in.
_TEXT = String().with_variant(String(collation="C"), "postgresql")
# SQLite counts up only a column that is exactly INTEGER PRIMARY KEY.
_COUNTER = BigInteger().with_variant(Integer, "sqlite")


class Base(DeclarativeBase):
    """What all rows share."""

    metadata = MetaData(naming_convention=_NAMES)
    type_annotation_map = {  # noqa: RUF012 - SQLAlchemy reads it from the class
        str: _TEXT,
        int: BigInteger,
        float: Double,
        bool: Boolean,
        bytes: LargeBinary,
        dict[str, Any]: _JSON,
        list[Any]: _JSON,
    }


def _order() -> Mapped[int]:
    return mapped_column(_COUNTER, primary_key=True, autoincrement=True)


def _id() -> Mapped[str]:
    return mapped_column(unique=True)


def _owner() -> Mapped[str]:
    return mapped_column(ForeignKey("directions.id"), index=True)


class DirectionRow(Base):
    """What a researcher submitted."""

    __tablename__ = "directions"
    # A tenant's list, whole or of one state, in the order of its pages.
    __table_args__ = (Index(None, "tenant", "row"), Index(None, "tenant", "state", "row"))

    row: Mapped[int] = _order()
    """Counts rows in the order they were first saved."""
    id: Mapped[str] = _id()
    tenant: Mapped[str]
    template: Mapped[str]
    text: Mapped[str]
    model: Mapped[str]
    review_model: Mapped[str]
    profile: Mapped[str]
    ideas: Mapped[int]
    runs: Mapped[int]
    novelty: Mapped[bool]
    seed: Mapped[int]
    sandbox: Mapped[str]
    budget_usd: Mapped[float | None]
    budget_usd_per_experiment: Mapped[float | None]
    budget_usd_per_call: Mapped[float | None]
    budget_gpu_s: Mapped[float | None]
    budget_wall_s: Mapped[float | None]
    priority: Mapped[int]
    parent: Mapped[str | None]
    parent_files: Mapped[dict[str, Any]]
    strategy: Mapped[str]
    reviewing: Mapped[dict[str, Any]]
    approve: Mapped[str]
    template_files: Mapped[dict[str, Any]]
    rule: Mapped[dict[str, Any] | None]
    state: Mapped[str] = mapped_column(index=True)
    hold: Mapped[str]
    created_at: Mapped[float]
    ended_at: Mapped[float | None]
    error: Mapped[str]


class IdeaRow(Base):
    """One proposal."""

    __tablename__ = "ideas"

    row: Mapped[int] = _order()
    id: Mapped[str] = _id()
    direction_id: Mapped[str] = _owner()
    index: Mapped[int]
    name: Mapped[str]
    title: Mapped[str]
    experiment: Mapped[str]
    decision: Mapped[str]
    interestingness: Mapped[dict[str, Any]]
    feasibility: Mapped[dict[str, Any]]
    novelty_score: Mapped[dict[str, Any]]
    scored_by: Mapped[str]
    kind: Mapped[str]
    hypothesis: Mapped[str]
    metric: Mapped[str]
    expected: Mapped[str]
    changes: Mapped[list[Any]]
    requests: Mapped[list[Any]]
    novelty: Mapped[str]
    novelty_reason: Mapped[str]
    evidence: Mapped[list[Any]]
    reflections: Mapped[int]
    created_at: Mapped[float]
    extra: Mapped[dict[str, Any]]


class ExperimentRow(Base):
    """One idea being carried out."""

    __tablename__ = "experiments"
    __table_args__ = (Index(None, "state", "hold"),)

    row: Mapped[int] = _order()
    id: Mapped[str] = _id()
    direction_id: Mapped[str] = _owner()
    idea_id: Mapped[str] = mapped_column(index=True)
    name: Mapped[str]
    index: Mapped[int]
    state: Mapped[str]
    hold: Mapped[str]
    files: Mapped[dict[str, Any]]
    added: Mapped[dict[str, Any]]
    baseline_id: Mapped[str | None]
    outcome: Mapped[str | None]
    label: Mapped[str]
    notes: Mapped[str]
    products: Mapped[dict[str, Any]]
    draft: Mapped[dict[str, Any]]
    limitations: Mapped[list[Any]]
    plan: Mapped[str]
    replicates: Mapped[str | None]
    forked_from: Mapped[str | None]
    from_step: Mapped[str]
    edited: Mapped[list[Any]]
    created_at: Mapped[float]
    ended_at: Mapped[float | None]
    error: Mapped[str]


class RunRow(Base):
    """One measurement of one version of the code."""

    __tablename__ = "runs"

    row: Mapped[int] = _order()
    id: Mapped[str] = _id()
    direction_id: Mapped[str] = _owner()
    experiment_id: Mapped[str | None] = mapped_column(index=True)
    index: Mapped[int]
    arm: Mapped[str]
    confirms: Mapped[str | None]
    alone: Mapped[int]
    arguments: Mapped[list[Any]]
    title: Mapped[str]
    description: Mapped[str]
    files: Mapped[dict[str, Any]]
    attempts: Mapped[list[Any]]
    result: Mapped[str]
    seeds: Mapped[list[Any]]
    outputs: Mapped[dict[str, Any]]
    final_info: Mapped[str]
    self_reported: Mapped[str]
    record: Mapped[str]
    log: Mapped[str]
    cache_key: Mapped[str] = mapped_column(index=True)


class ExecutionRow(Base):
    """One container job."""

    __tablename__ = "executions"
    __table_args__ = (Index(None, "kind", "state", "verdict"),)

    row: Mapped[int] = _order()
    id: Mapped[str] = _id()
    direction_id: Mapped[str] = _owner()
    experiment_id: Mapped[str | None] = mapped_column(index=True)
    run_id: Mapped[str | None] = mapped_column(index=True)
    kind: Mapped[str]
    image: Mapped[str]
    command: Mapped[list[Any]]
    inputs: Mapped[dict[str, Any]]
    key_context: Mapped[str]
    collect: Mapped[list[Any]]
    environment: Mapped[dict[str, Any]]
    limits: Mapped[dict[str, Any]]
    network: Mapped[str]
    llm_usd: Mapped[float]
    sandbox: Mapped[str]
    gpus: Mapped[int]
    gpu_memory_mib: Mapped[int | None]
    alone: Mapped[bool]
    measured_as: Mapped[str]
    state: Mapped[str] = mapped_column(index=True)
    fence: Mapped[int]
    losses: Mapped[int]
    outcome: Mapped[dict[str, Any] | None]
    verdict: Mapped[str | None]
    """The outcome's, where it can be counted."""
    created_at: Mapped[float]
    launched_at: Mapped[float | None]


class ModelCallRow(Base):
    """One recorded call of a model; stands without its direction, since it is evidence."""

    __tablename__ = "calls"

    row: Mapped[int] = _order()
    id: Mapped[str] = _id()
    direction_id: Mapped[str] = mapped_column(index=True)
    experiment_id: Mapped[str | None] = mapped_column(index=True)
    role: Mapped[str]
    model: Mapped[str]
    upstream: Mapped[str]
    claims: Mapped[str]
    request: Mapped[str]
    reply: Mapped[str]
    status: Mapped[int]
    usage: Mapped[dict[str, Any]]
    at: Mapped[float]
    duration_s: Mapped[float]


class CallTextRow(Base):
    """What was said in a recorded call, where it is not long."""

    __tablename__ = "call_texts"

    row: Mapped[int] = _order()
    id: Mapped[str] = _id()
    request: Mapped[bytes]
    reply: Mapped[bytes]


class StepRow(Base):
    """One piece of work."""

    __tablename__ = "steps"
    # Every claim and every wake looks for the live rows of one side, among many that are done: the oldest first.
    __table_args__ = (Index(None, "side", "state", "due_at", "row"), Index(None, "side", "state", "lease_until"))

    row: Mapped[int] = _order()
    id: Mapped[str] = _id()
    key: Mapped[str] = mapped_column(unique=True)
    name: Mapped[str]
    side: Mapped[str]
    direction_id: Mapped[str] = _owner()
    experiment_id: Mapped[str | None] = mapped_column(index=True)
    state: Mapped[str]
    due_at: Mapped[float]
    payload: Mapped[dict[str, Any]]
    waits_for: Mapped[list[Any]]
    fence: Mapped[int]
    tries: Mapped[int]
    lease_until: Mapped[float]
    error: Mapped[str]


class EventRow(Base):
    """Something that happened."""

    __tablename__ = "events"
    # AUTOINCREMENT: a reader resumes after the last number it saw, so none may ever be given twice.
    __table_args__ = (Index(None, "direction_id", "seq"), {"sqlite_autoincrement": True})

    seq: Mapped[int] = _order()
    direction_id: Mapped[str]
    experiment_id: Mapped[str | None]
    kind: Mapped[str]
    text: Mapped[str]
    data: Mapped[dict[str, Any]]
    at: Mapped[float]


class LedgerRow(Base):
    """One line of the ledger."""

    __tablename__ = "ledger"

    row: Mapped[int] = _order()
    id: Mapped[str] = _id()
    call_id: Mapped[str] = mapped_column(index=True)
    tenant: Mapped[str] = mapped_column(index=True)
    direction_id: Mapped[str] = mapped_column(index=True)
    experiment_id: Mapped[str | None]
    token: Mapped[str]
    kind: Mapped[str]
    role: Mapped[str]
    model: Mapped[str]
    usd: Mapped[float]
    tokens: Mapped[int]
    cpu_s: Mapped[float]
    gpu_s: Mapped[float]
    wall_s: Mapped[float]
    bytes: Mapped[int]
    running: Mapped[int]
    gpus: Mapped[int]
    input_tokens: Mapped[int]
    cached_tokens: Mapped[int]
    output_tokens: Mapped[int]
    day: Mapped[str]
    at: Mapped[float]


class BalanceRow(Base):
    """The sum of the ledger over one account, kept with each line, so that no sum is ever made over all of them."""

    __tablename__ = "balances"

    row: Mapped[int] = _order()
    id: Mapped[str] = _id()
    usd: Mapped[float]
    tokens: Mapped[int]
    input_tokens: Mapped[int]
    cached_tokens: Mapped[int]
    output_tokens: Mapped[int]
    cpu_s: Mapped[float]
    gpu_s: Mapped[float]
    wall_s: Mapped[float]
    bytes: Mapped[int]
    running: Mapped[int]
    gpus: Mapped[int]


class LeaseRow(Base):
    """What a try of an execution holds of the machine."""

    __tablename__ = "leases"

    row: Mapped[int] = _order()
    id: Mapped[str] = _id()
    tenant: Mapped[str]
    execution_id: Mapped[str]
    gpus: Mapped[list[Any]]
    gpu_memory_mib: Mapped[int | None]
    since: Mapped[float]
    beat_at: Mapped[float]
    ended_at: Mapped[float | None] = mapped_column(index=True)


class PeakRow(Base):
    """The most that executions of one code took."""

    __tablename__ = "peaks"

    row: Mapped[int] = _order()
    id: Mapped[str] = _id()
    memory_mib: Mapped[float]
    cpus: Mapped[float]
    gpu_memory_mib: Mapped[float]


class TenantRow(Base):
    """Those who share research, quotas and a bill."""

    __tablename__ = "tenants"

    row: Mapped[int] = _order()
    id: Mapped[str] = _id()
    name: Mapped[str] = mapped_column(unique=True)
    weight: Mapped[float]
    quotas: Mapped[dict[str, Any]]
    created_at: Mapped[float]


class KeyRow(Base):
    """An API key, by what proves it."""

    __tablename__ = "keys"

    row: Mapped[int] = _order()
    id: Mapped[str] = _id()
    tenant: Mapped[str] = mapped_column(index=True)
    name: Mapped[str]
    scopes: Mapped[list[Any]]
    digest: Mapped[str] = mapped_column(unique=True)
    created_at: Mapped[float]
    expires_at: Mapped[float | None]
    revoked_at: Mapped[float | None]


class SwitchRow(Base):
    """Whether work goes on, of a tenant or of all."""

    __tablename__ = "switches"

    row: Mapped[int] = _order()
    id: Mapped[str] = _id()
    is_paused: Mapped[bool]
    is_killed: Mapped[bool]
    at: Mapped[float]


class RevocationRow(Base):
    """A gateway token that opens nothing any more."""

    __tablename__ = "revocations"

    row: Mapped[int] = _order()
    id: Mapped[str] = _id()
    at: Mapped[float]


class ReplyRow(Base):
    """What was answered to a request with an idempotency key."""

    __tablename__ = "replies"

    row: Mapped[int] = _order()
    id: Mapped[str] = _id()
    request: Mapped[str]
    made: Mapped[str]
    at: Mapped[float]


class FeedbackRow(Base):
    """A person's comment."""

    __tablename__ = "feedback"

    row: Mapped[int] = _order()
    id: Mapped[str] = _id()
    direction_id: Mapped[str] = _owner()
    experiment_id: Mapped[str | None]
    author: Mapped[str]
    text: Mapped[str]
    at: Mapped[float]


class CatalogueRow(Base):
    """A file that ideas may ask for; its id is its name."""

    __tablename__ = "catalogue"

    row: Mapped[int] = _order()
    id: Mapped[str] = _id()
    kind: Mapped[str]
    title: Mapped[str]
    url: Mapped[str]
    licence: Mapped[str]
    sha256: Mapped[str]
    bytes: Mapped[int]
    format: Mapped[str]
    split: Mapped[float]
    templates: Mapped[list[Any]]
    tenants: Mapped[list[Any]]
    added_at: Mapped[float]
    removed_at: Mapped[float | None]


class AuditRow(Base):
    """Who changed what."""

    __tablename__ = "audit"
    # As of events: a number that was given once is never given again.
    __table_args__ = {"sqlite_autoincrement": True}  # noqa: RUF012 - SQLAlchemy reads it from the class

    seq: Mapped[int] = _order()
    id: Mapped[str] = _id()
    actor: Mapped[str]
    action: Mapped[str]
    tenant: Mapped[str] = mapped_column(index=True)
    subject: Mapped[str]
    detail: Mapped[dict[str, Any]]
    at: Mapped[float]
    seal: Mapped[str] = mapped_column(index=True)


class LeafRow(Base):
    """One entry of the log."""

    __tablename__ = "leaves"

    index: Mapped[int] = mapped_column(_COUNTER, primary_key=True, autoincrement=False)
    """Given by whoever appends, so that two can never have the same."""
    scope: Mapped[str] = mapped_column(index=True)
    direction_id: Mapped[str]
    entry: Mapped[str]
    hashes: Mapped[list[Any]]


class TreeHeadRow(Base):
    """What was signed of the whole log."""

    __tablename__ = "tree_heads"

    size: Mapped[int] = mapped_column(_COUNTER, primary_key=True, autoincrement=False)
    root: Mapped[str]
    at: Mapped[float]
    envelope: Mapped[str]


class OutputRow(Base):
    """One piece of what a program printed that is not yet collected."""

    __tablename__ = "outputs"
    __table_args__ = (Index(None, "execution_id", "fence", "offset"),)

    row: Mapped[int] = _order()
    id: Mapped[str] = _id()
    execution_id: Mapped[str]
    fence: Mapped[int]
    offset: Mapped[int]
    end: Mapped[int]
    data: Mapped[bytes]
    at: Mapped[float]


class WorkerRow(Base):
    """A worker process that was seen at work."""

    __tablename__ = "workers"

    row: Mapped[int] = _order()
    id: Mapped[str] = _id()
    part: Mapped[str]
    seen_at: Mapped[float]


class ChangeRow(Base):
    """The one row that each commit on PostgreSQL raises; SQLite counts by itself."""

    __tablename__ = "changes"

    row: Mapped[int] = _order()
    number: Mapped[int]


def _table(row: type[Base]) -> Table:
    return cast("Table", row.__table__)


DIRECTIONS: Final = _table(DirectionRow)
IDEAS: Final = _table(IdeaRow)
EXPERIMENTS: Final = _table(ExperimentRow)
RUNS: Final = _table(RunRow)
EXECUTIONS: Final = _table(ExecutionRow)
CALLS: Final = _table(ModelCallRow)
CALL_TEXTS: Final = _table(CallTextRow)
STEPS: Final = _table(StepRow)
EVENTS: Final = _table(EventRow)
LEDGER: Final = _table(LedgerRow)
BALANCES: Final = _table(BalanceRow)
LEASES: Final = _table(LeaseRow)
PEAKS: Final = _table(PeakRow)
TENANTS: Final = _table(TenantRow)
KEYS: Final = _table(KeyRow)
SWITCHES: Final = _table(SwitchRow)
REVOCATIONS: Final = _table(RevocationRow)
REPLIES: Final = _table(ReplyRow)
FEEDBACK: Final = _table(FeedbackRow)
CATALOGUE: Final = _table(CatalogueRow)
AUDIT: Final = _table(AuditRow)
LEAVES: Final = _table(LeafRow)
TREE_HEADS: Final = _table(TreeHeadRow)
OUTPUTS: Final = _table(OutputRow)
WORKERS: Final = _table(WorkerRow)
