"""The catalogue, what ideas ask for of it, and what experiments were given."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0014_catalogue"
down_revision = "0013_alone"
branch_labels = None
depends_on = None

COUNTER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
TEXT = sa.String().with_variant(sa.String(collation="C"), "postgresql")
JSON = sa.JSON(none_as_null=True)
ADDED = {"ideas": ("requests", "[]"), "experiments": ("added", "{}")}
"""By table, the new column, and what it holds in rows that are there."""


def upgrade() -> None:
    """Go up to this version."""
    op.create_table(
        "catalogue",
        sa.Column("row", COUNTER, autoincrement=True, nullable=False),
        sa.Column("id", TEXT, nullable=False),
        *(sa.Column(name, TEXT, nullable=False) for name in ("kind", "title", "url", "licence", "sha256")),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("format", TEXT, nullable=False),
        sa.Column("split", sa.Double(), nullable=False),
        *(sa.Column(name, JSON, nullable=False) for name in ("templates", "tenants")),
        sa.Column("added_at", sa.Double(), nullable=False),
        sa.Column("removed_at", sa.Double(), nullable=True),
        sa.PrimaryKeyConstraint("row", name="pk_catalogue"),
        sa.UniqueConstraint("id", name="uq_catalogue_id"),
    )
    for table, (name, held) in ADDED.items():
        with op.batch_alter_table(table) as changed:
            changed.add_column(sa.Column(name, JSON, nullable=False, server_default=held))
        with op.batch_alter_table(table) as changed:
            changed.alter_column(name, server_default=None)


def downgrade() -> None:
    """Go back to the version before; what was asked for, and what was given, has no place there."""
    for table, (name, _) in ADDED.items():
        with op.batch_alter_table(table) as changed:
            changed.drop_column(name)
    op.drop_table("catalogue")
