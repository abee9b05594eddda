"""Leases of all executions, kept after their end; what one needs of a GPU; and what was measured of a code."""

from __future__ import annotations

import json
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0012_packing"
down_revision = "0011_call_texts"
branch_labels = None
depends_on = None

COUNTER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
TEXT = sa.String().with_variant(sa.String(collation="C"), "postgresql")
ADDED: dict[str, tuple[Any, bool, Any]] = {
    "gpu_memory_mib": (sa.BigInteger(), True, None),
    "alone": (sa.Boolean(), False, sa.false()),
    "measured_as": (TEXT, False, ""),
}
"""Each new column of executions: its type, whether it may be empty, and what it holds in rows that are there."""


def upgrade() -> None:
    """Go up to this version."""
    with op.batch_alter_table("executions") as executions:
        for name, (kind, is_nullable, default) in ADDED.items():
            executions.add_column(sa.Column(name, kind, nullable=is_nullable, server_default=default))
    with op.batch_alter_table("executions") as executions:
        for name, (_, is_nullable, _) in ADDED.items():
            if not is_nullable:
                executions.alter_column(name, server_default=None)
    held = _rows("SELECT id, execution_id FROM leases WHERE execution_id IS NOT NULL ORDER BY row")
    # Reserved or launched: whoever comes now is to see them, too.
    running = _rows(
        "SELECT e.id, e.fence, e.launched_at, e.created_at, d.tenant FROM executions e"
        " JOIN directions d ON d.id = e.direction_id WHERE e.state IN ('launched', 'ended') OR e.id IN"
        " (SELECT execution_id FROM leases WHERE execution_id IS NOT NULL) ORDER BY e.row"
    )
    op.drop_table("leases")
    leases = _create(
        "leases",
        sa.Column("tenant", TEXT, nullable=False),
        sa.Column("execution_id", TEXT, nullable=False),
        sa.Column("gpus", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("gpu_memory_mib", sa.BigInteger(), nullable=True),
        *(sa.Column(name, sa.Double(), nullable=False) for name in ("since", "beat_at")),
        sa.Column("ended_at", sa.Double(), nullable=True),
    )
    op.create_index("ix_leases_ended_at", "leases", ["ended_at"])
    _create(
        "peaks", *(sa.Column(name, sa.Double(), nullable=False) for name in ("memory_mib", "cpus", "gpu_memory_mib"))
    )
    kept = []
    for key, fence, launched_at, created_at, tenant in running:
        since = created_at if launched_at is None else launched_at
        gpus = [device for device, holder in held if holder == key]
        named = {"id": f"{key}:{fence}", "tenant": tenant, "execution_id": key, "gpus": gpus}
        kept.append({**named, "gpu_memory_mib": None, "since": since, "beat_at": since, "ended_at": None})
    op.bulk_insert(leases, kept)


def downgrade() -> None:
    """Go back to the version before; of executions that share a GPU it keeps one, since it knew of no more."""
    open_ones = _rows(
        "SELECT tenant, execution_id, gpus, since, beat_at FROM leases WHERE ended_at IS NULL ORDER BY row"
    )
    op.drop_table("peaks")
    op.drop_table("leases")
    leases = _create(
        "leases",
        sa.Column("tenant", TEXT, nullable=True),
        sa.Column("execution_id", TEXT, nullable=True),
        *(sa.Column(name, sa.Double(), nullable=False) for name in ("since", "beat_at")),
    )
    op.create_index("ix_leases_execution_id", "leases", ["execution_id"])
    by_device: dict[str, dict[str, Any]] = {}
    for tenant, execution, gpus, since, beat_at in open_ones:
        named = {"tenant": tenant, "execution_id": execution, "since": since, "beat_at": beat_at}
        for device in json.loads(gpus) if isinstance(gpus, str) else gpus:
            by_device.setdefault(device, {"id": device, **named})
    op.bulk_insert(leases, list(by_device.values()))
    with op.batch_alter_table("executions") as executions:
        for name in reversed(ADDED):
            executions.drop_column(name)


def _create(table: str, *columns: Any) -> sa.Table:
    return op.create_table(
        table,
        sa.Column("row", COUNTER, autoincrement=True, nullable=False),
        sa.Column("id", TEXT, nullable=False),
        *columns,
        sa.PrimaryKeyConstraint("row", name=f"pk_{table}"),
        sa.UniqueConstraint("id", name=f"uq_{table}_id"),
    )


def _rows(query: str) -> list[Any]:
    return list(op.get_bind().execute(sa.text(query)))
