"""The log: what was measured and tried, in a tree of hashes, and what was signed of it."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010_log"
down_revision = "0009_confirmation"
branch_labels = None
depends_on = None

COUNTER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
TEXT = sa.String().with_variant(sa.String(collation="C"), "postgresql")
MADE = ("leaves", "tree_heads")
REFUSAL = "what the log holds is never changed"


def upgrade() -> None:
    """Go up to this version."""
    op.create_table(
        "leaves",
        sa.Column("index", COUNTER, autoincrement=False, nullable=False),
        *(sa.Column(name, TEXT, nullable=False) for name in ("scope", "direction_id", "entry")),
        sa.Column("hashes", sa.JSON(none_as_null=True), nullable=False),
        sa.PrimaryKeyConstraint("index", name="pk_leaves"),
    )
    op.create_index("ix_leaves_scope", "leaves", ["scope"])
    op.create_table(
        "tree_heads",
        sa.Column("size", COUNTER, autoincrement=False, nullable=False),
        sa.Column("root", TEXT, nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.Column("envelope", TEXT, nullable=False),
        sa.PrimaryKeyConstraint("size", name="pk_tree_heads"),
    )
    _keep()


def downgrade() -> None:
    """Go back to the version before."""
    for made in reversed(MADE):
        op.drop_table(made)
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP FUNCTION log_is_kept()")


def _keep() -> None:
    """Have the database itself refuse to change what is written there."""
    if op.get_bind().dialect.name == "postgresql":
        op.execute(
            "CREATE FUNCTION log_is_kept() RETURNS trigger AS $$"
            f" BEGIN RAISE EXCEPTION '{REFUSAL}'; END $$ LANGUAGE plpgsql"
        )
        for made in MADE:
            # For each statement, so that TRUNCATE, which asks no row's trigger, is refused by the same one.
            op.execute(
                f"CREATE TRIGGER {made}_are_kept BEFORE UPDATE OR DELETE OR TRUNCATE ON {made} FOR EACH STATEMENT"
                " EXECUTE FUNCTION log_is_kept()"
            )
        return
    for made in MADE:
        for verb in ("UPDATE", "DELETE"):
            op.execute(
                f"CREATE TRIGGER {made}_refuse_{verb.lower()} BEFORE {verb} ON {made}"
                f" BEGIN SELECT RAISE(ABORT, '{REFUSAL}'); END"
            )
