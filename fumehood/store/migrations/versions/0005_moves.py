"""What programs print while they run."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005_moves"
down_revision = "0004"
branch_labels = None
depends_on = None

TEXT = sa.String().with_variant(sa.String(collation="C"), "postgresql")
COUNTER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


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


def downgrade() -> None:
    """Go back to the version before."""
    op.drop_table("outputs")
