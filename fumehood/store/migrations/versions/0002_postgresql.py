"""A count of commits for PostgreSQL, text ordered by its bytes there, and indexes for claims."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

TABLES = ("directions", "ideas", "experiments", "runs", "executions", "calls", "steps", "events", "ledger")


def upgrade() -> None:
    """Go up to this version."""
    changes = op.create_table(
        "changes",
        sa.Column("row", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("row", name="pk_changes"),
    )
    op.bulk_insert(changes, [{"number": 0}])
    op.drop_index("ix_steps_side_state_due_at", "steps")
    op.create_index("ix_steps_side_state_due_at_row", "steps", ["side", "state", "due_at", "row"])
    op.create_index("ix_steps_side_state_lease_until", "steps", ["side", "state", "lease_until"])
    _order_text_by("C")


def downgrade() -> None:
    """Go back to the version before."""
    _order_text_by("default")
    op.drop_index("ix_steps_side_state_lease_until", "steps")
    op.drop_index("ix_steps_side_state_due_at_row", "steps")
    op.create_index("ix_steps_side_state_due_at", "steps", ["side", "state", "due_at"])
    op.drop_table("changes")


def _order_text_by(collation: str) -> None:
    connection = op.get_bind()
    if connection.dialect.name != "postgresql":
        return
    for table in TABLES:
        text = [column["name"] for column in sa.inspect(connection).get_columns(table) if _is_text(column["type"])]
        changes = ", ".join(f'ALTER COLUMN "{name}" TYPE VARCHAR COLLATE "{collation}"' for name in text)
        op.execute(f'ALTER TABLE "{table}" {changes}')


def _is_text(kind: object) -> bool:
    return isinstance(kind, sa.String)
