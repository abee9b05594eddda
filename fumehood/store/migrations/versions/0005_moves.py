"""What programs print while they run, experiments that are forks, and what a direction may be asked beside."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0005_moves"
down_revision = "0004"
branch_labels = None
depends_on = None

TEXT = sa.String().with_variant(sa.String(collation="C"), "postgresql")
COUNTER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

JSON = sa.JSON(none_as_null=True)
ADDED: dict[str, dict[str, tuple[Any, bool, str | None]]] = {
    "experiments": {
        "plan": (TEXT, False, ""),
        "forked_from": (TEXT, True, None),
        "from_step": (TEXT, False, ""),
        "edited": (JSON, False, "[]"),
    },
    "directions": {
        "budget_gpu_s": (sa.Double(), True, None),
        "budget_wall_s": (sa.Double(), True, None),
        "priority": (sa.BigInteger(), False, "0"),
        "parent": (TEXT, True, None),
        "parent_files": (JSON, False, "{}"),
        "strategy": (TEXT, False, "list"),
        "reviewing": (JSON, False, "{}"),
    },
    "ledger": {"wall_s": (sa.Double(), False, "0")},
    "balances": {"wall_s": (sa.Double(), False, "0")},
}
"""By table, each new column's type, whether it may be empty, and what it holds in rows that are there."""


def upgrade() -> None:
    """Go up to this version."""
    op.create_table(
        "outputs",
        sa.Column("row", COUNTER, autoincrement=True, nullable=False),
        sa.Column("id", TEXT, nullable=False),
        sa.Column("execution_id", TEXT, nullable=False),
        *(sa.Column(name, sa.BigInteger(), nullable=False) for name in ("fence", "offset", "end")),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("row", name="pk_outputs"),
        sa.UniqueConstraint("id", name="uq_outputs_id"),
    )
    op.create_index("ix_outputs_execution_id_fence_offset", "outputs", ["execution_id", "fence", "offset"])
    for table, columns in ADDED.items():
        with op.batch_alter_table(table) as changed:
            for name, (kind, is_nullable, default) in columns.items():
                changed.add_column(sa.Column(name, kind, nullable=is_nullable, server_default=default))
        with op.batch_alter_table(table) as changed:
            for name, (_, is_nullable, _) in columns.items():
                if not is_nullable:
                    changed.alter_column(name, server_default=None)


def downgrade() -> None:
    """Go back to the version before."""
    for table, columns in ADDED.items():
        with op.batch_alter_table(table) as changed:
            for name in columns:
                changed.drop_column(name)
    op.drop_table("outputs")
