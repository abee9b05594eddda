"""The audit cannot be emptied at once either: PostgreSQL asks no row's trigger before TRUNCATE."""

from __future__ import annotations

from alembic import op

revision = "0006_audit_truncate"
down_revision = "0005_moves"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Go up to this version."""
    if op.get_bind().dialect.name != "postgresql":
        return
    op.execute(
        """
        CREATE FUNCTION audit_is_not_emptied() RETURNS trigger AS $$ BEGIN
            RAISE EXCEPTION 'what the audit holds is never changed';
        END $$ LANGUAGE plpgsql
        """
    )
    op.execute(
        "CREATE TRIGGER audit_is_not_emptied BEFORE TRUNCATE ON audit FOR EACH STATEMENT"
        " EXECUTE FUNCTION audit_is_not_emptied()"
    )


def downgrade() -> None:
    """Go back to the version before."""
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP TRIGGER audit_is_not_emptied ON audit")
        op.execute("DROP FUNCTION audit_is_not_emptied()")
