"""What was said in calls of a model, where it is not long: it lay with the artifacts."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011_call_texts"
down_revision = "0010_log"
branch_labels = None
depends_on = None

COUNTER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
TEXT = sa.String().with_variant(sa.String(collation="C"), "postgresql")


def upgrade() -> None:
    """Go up to this version; what lies with the artifacts stays there."""
    op.create_table(
        "call_texts",
        sa.Column("row", COUNTER, nullable=False),
        sa.Column("id", TEXT, nullable=False),
        sa.Column("request", sa.LargeBinary(), nullable=False),
        sa.Column("reply", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("row", name="pk_call_texts"),
        sa.UniqueConstraint("id", name="uq_call_texts_id"),
    )


def downgrade() -> None:
    """Go back to the version before, which finds no texts here: they are lost."""
    op.drop_table("call_texts")
