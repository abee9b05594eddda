"""Worker processes as they were last seen, and what figures are counted by."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

TEXT = sa.String().with_variant(sa.String(collation="C"), "postgresql")
COUNTER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Go up to this version."""
    op.create_table(
        "workers",
        sa.Column("row", COUNTER, autoincrement=True, nullable=False),
        sa.Column("id", TEXT, nullable=False),
        sa.Column("part", TEXT, nullable=False),
        sa.Column("seen_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("row", name="pk_workers"),
        sa.UniqueConstraint("id", name="uq_workers_id"),
    )
    op.add_column("executions", sa.Column("verdict", TEXT, nullable=True))
    # SQLite and PostgreSQL take a field out of JSON in the same words.
    op.execute("UPDATE executions SET verdict = outcome ->> 'verdict' WHERE outcome IS NOT NULL")
    op.create_index("ix_executions_kind_state_verdict", "executions", ["kind", "state", "verdict"])
    op.create_index("ix_experiments_state_hold", "experiments", ["state", "hold"])


def downgrade() -> None:
    """Go back to the version before."""
    op.drop_index("ix_experiments_state_hold", "experiments")
    op.drop_index("ix_executions_kind_state_verdict", "executions")
    op.drop_column("executions", "verdict")
    op.drop_table("workers")
