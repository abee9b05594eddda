"""Runs of one seed of a confirmation's look alone, and runs with arguments of their own."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0013_alone"
down_revision = "0012_packing"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Go up to this version."""
    with op.batch_alter_table("runs") as changed:
        changed.add_column(sa.Column("alone", sa.BigInteger(), nullable=False, server_default="0"))
        changed.add_column(sa.Column("arguments", sa.JSON(none_as_null=True), nullable=False, server_default="[]"))
    with op.batch_alter_table("runs") as changed:
        changed.alter_column("alone", server_default=None)
        changed.alter_column("arguments", server_default=None)


def downgrade() -> None:
    """Go back to the version before; seeds that were measured alone, and matched baselines, have no place there."""
    op.execute("DELETE FROM runs WHERE alone > 0 OR (arm = 'confirm' AND \"index\" = 0 AND experiment_id IS NOT NULL)")
    with op.batch_alter_table("runs") as changed:
        changed.drop_column("arguments")
        changed.drop_column("alone")
