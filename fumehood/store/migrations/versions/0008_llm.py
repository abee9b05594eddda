"""What an execution may ask: its network, and what its calls of a model may cost."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008_llm"
down_revision = "0007_caps"
branch_labels = None
depends_on = None

TEXT = sa.String().with_variant(sa.String(collation="C"), "postgresql")


def upgrade() -> None:
    """Go up to this version."""
    with op.batch_alter_table("executions") as executions:
        executions.add_column(sa.Column("network", TEXT, nullable=False, server_default="none"))
        executions.add_column(sa.Column("llm_usd", sa.Double(), nullable=False, server_default="0"))
    with op.batch_alter_table("executions") as executions:
        executions.alter_column("network", server_default=None)
        executions.alter_column("llm_usd", server_default=None)


def downgrade() -> None:
    """Go back to the version before."""
    with op.batch_alter_table("executions") as executions:
        executions.drop_column("llm_usd")
        executions.drop_column("network")
