"""The first tables: directions, ideas, experiments, runs, executions, calls, steps, events and the ledger."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def _text(*names: str) -> list[sa.Column[Any]]:
    return [sa.Column(name, sa.String(), nullable=False) for name in names]


def _text_or_none(*names: str) -> list[sa.Column[Any]]:
    return [sa.Column(name, sa.String(), nullable=True) for name in names]


def _whole(*names: str) -> list[sa.Column[Any]]:
    return [sa.Column(name, sa.BigInteger(), nullable=False) for name in names]


def _real(*names: str) -> list[sa.Column[Any]]:
    return [sa.Column(name, sa.Double(), nullable=False) for name in names]


def _real_or_none(*names: str) -> list[sa.Column[Any]]:
    return [sa.Column(name, sa.Double(), nullable=True) for name in names]


def _json(*names: str) -> list[sa.Column[Any]]:
    return [sa.Column(name, sa.JSON(none_as_null=True), nullable=False) for name in names]


def _json_or_none(*names: str) -> list[sa.Column[Any]]:
    return [sa.Column(name, sa.JSON(none_as_null=True), nullable=True) for name in names]


def _counter(name: str) -> sa.Column[Any]:
    return sa.Column(
        name, sa.BigInteger().with_variant(sa.Integer(), "sqlite"), primary_key=True, autoincrement=True, nullable=False
    )


def _create(table: str, *columns: sa.Column[Any], owned: bool = True, unique: tuple[str, ...] = ("id",)) -> None:
    rules: list[Any] = [sa.UniqueConstraint(name, name=f"uq_{table}_{name}") for name in unique]
    if owned:
        rules.append(sa.ForeignKeyConstraint(["direction_id"], ["directions.id"], name=f"fk_{table}_direction_id"))
    op.create_table(table, _counter("row"), *columns, sa.PrimaryKeyConstraint("row", name=f"pk_{table}"), *rules)


def _index(table: str, *columns: str) -> None:
    op.create_index(f"ix_{table}_{'_'.join(columns)}", table, list(columns))


def upgrade() -> None:
    """Make the tables."""
    _create(
        "directions",
        *_text("id", "tenant", "template", "text", "model", "review_model", "profile"),
        *_whole("ideas", "runs"),
        sa.Column("novelty", sa.Boolean(), nullable=False),
        *_whole("seed"),
        *_text("sandbox"),
        *_real_or_none("budget_usd"),
        *_json("template_files"),
        *_text("state", "hold"),
        *_real("created_at"),
        *_real_or_none("ended_at"),
        *_text("error"),
        owned=False,
    )
    _index("directions", "tenant")
    _index("directions", "state")
    _create(
        "ideas",
        *_text("id", "direction_id"),
        *_whole("index"),
        *_text("name", "title", "experiment"),
        *_json("interestingness", "feasibility", "novelty_score"),
        *_text("scored_by", "kind", "hypothesis", "metric", "expected"),
        *_json("changes"),
        *_text("novelty", "novelty_reason"),
        *_json("evidence"),
        *_whole("reflections"),
        *_real("created_at"),
        *_json("extra"),
    )
    _index("ideas", "direction_id")
    _create(
        "experiments",
        *_text("id", "direction_id", "idea_id", "name"),
        *_whole("index"),
        *_text("state", "hold"),
        *_json("files"),
        *_text_or_none("baseline_id", "outcome"),
        *_text("label", "notes"),
        *_json("products", "draft", "limitations"),
        *_real("created_at"),
        *_real_or_none("ended_at"),
        *_text("error"),
    )
    _index("experiments", "direction_id")
    _index("experiments", "idea_id")
    _create(
        "runs",
        *_text("id", "direction_id"),
        *_text_or_none("experiment_id"),
        *_whole("index"),
        *_text("title", "description"),
        *_json("files", "attempts"),
        *_text("result"),
        *_json("seeds", "outputs"),
        *_text("final_info", "self_reported", "record", "log", "cache_key"),
    )
    _index("runs", "direction_id")
    _index("runs", "experiment_id")
    _index("runs", "cache_key")
    _create(
        "executions",
        *_text("id", "direction_id"),
        *_text_or_none("experiment_id", "run_id"),
        *_text("kind", "image"),
        *_json("command", "inputs"),
        *_text("key_context"),
        *_json("collect", "environment", "limits"),
        *_text("sandbox", "state"),
        *_whole("fence", "losses"),
        *_json_or_none("outcome"),
        *_real("created_at"),
        *_real_or_none("launched_at"),
    )
    _index("executions", "direction_id")
    _index("executions", "experiment_id")
    _index("executions", "run_id")
    _index("executions", "state")
    _create(
        "calls",
        *_text("id", "direction_id"),
        *_text_or_none("experiment_id"),
        *_text("role", "model", "upstream", "claims", "request", "reply"),
        *_whole("status"),
        *_json("usage"),
        *_real("at", "duration_s"),
        owned=False,
    )
    _index("calls", "direction_id")
    _index("calls", "experiment_id")
    _create(
        "steps",
        *_text("id", "key", "name", "side", "direction_id"),
        *_text_or_none("experiment_id"),
        *_text("state"),
        *_real("due_at"),
        *_json("payload", "waits_for"),
        *_whole("fence", "tries"),
        *_real("lease_until"),
        *_text("error"),
        unique=("id", "key"),
    )
    _index("steps", "direction_id")
    _index("steps", "experiment_id")
    _index("steps", "side", "state", "due_at")
    op.create_table(
        "events",
        _counter("seq"),
        *_text("direction_id"),
        *_text_or_none("experiment_id"),
        *_text("kind", "text"),
        *_json("data"),
        *_real("at"),
        sa.PrimaryKeyConstraint("seq", name="pk_events"),
        sqlite_autoincrement=True,
    )
    _index("events", "direction_id", "seq")
    _create(
        "ledger",
        *_text("id", "call_id", "direction_id"),
        *_text_or_none("experiment_id"),
        *_text("kind", "role", "model"),
        *_real("usd"),
        *_whole("input_tokens", "cached_tokens", "output_tokens"),
        *_real("at"),
        owned=False,
    )
    _index("ledger", "call_id")
    _index("ledger", "direction_id")


def downgrade() -> None:
    """Remove them all."""
    for table in ("ledger", "events", "steps", "calls", "executions", "runs", "experiments", "ideas", "directions"):
        op.drop_table(table)
