"""Caps at every level: balances of experiments and tokens, tokens that are revoked, and tokens counted by kind."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0007_caps"
down_revision = "0006_audit_truncate"
branch_labels = None
depends_on = None

TEXT = sa.String().with_variant(sa.String(collation="C"), "postgresql")
COUNTER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

COUNTED = ("input_tokens", "cached_tokens", "output_tokens")
ADDED: dict[str, dict[str, tuple[Any, bool, str | None]]] = {
    "directions": {
        "budget_usd_per_experiment": (sa.Double(), True, None),
        "budget_usd_per_call": (sa.Double(), True, None),
    },
    "ledger": {"token": (TEXT, False, "")},
    "balances": {name: (sa.BigInteger(), False, "0") for name in COUNTED},
}
"""By table, each new column's type, whether it may be empty, and what it holds in rows that are there."""
SUMS = ("usd", "tokens", *COUNTED, "cpu_s", "gpu_s", "wall_s", "bytes", "running", "gpus")


def upgrade() -> None:
    """Go up to this version."""
    op.create_table(
        "revocations",
        sa.Column("row", COUNTER, autoincrement=True, nullable=False),
        sa.Column("id", TEXT, nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("row", name="pk_revocations"),
        sa.UniqueConstraint("id", name="uq_revocations_id"),
    )
    for table, columns in ADDED.items():
        with op.batch_alter_table(table) as changed:
            for name, (kind, is_nullable, default) in columns.items():
                changed.add_column(sa.Column(name, kind, nullable=is_nullable, server_default=default))
        with op.batch_alter_table(table) as changed:
            for name, (_, is_nullable, _) in columns.items():
                if not is_nullable:
                    changed.alter_column(name, server_default=None)
    _count_by_kind()
    _sum_experiments()


def downgrade() -> None:
    """Go back to the version before."""
    # A token's account is one that its entries name; an experiment's too.
    named = "SELECT token FROM ledger UNION SELECT experiment_id FROM ledger WHERE experiment_id IS NOT NULL"
    op.execute(f"DELETE FROM balances WHERE id IN ({named})")  # noqa: S608 - our own names
    for table, columns in ADDED.items():
        with op.batch_alter_table(table) as changed:
            for name in columns:
                changed.drop_column(name)
    op.drop_table("revocations")


def _count_by_kind() -> None:
    """Fill the new sums of the accounts that are there from the lines that each is made of."""
    names = ", ".join(COUNTED)
    sums = ", ".join(f"SUM({name}) AS {name}" for name in COUNTED)
    # Read once and looked up by id: an account's lines are many, and those of a day have no index.
    op.create_table(
        "counted", sa.Column("id", TEXT, primary_key=True), *(sa.Column(name, sa.BigInteger()) for name in COUNTED)
    )
    for account in ("direction_id", "tenant", "tenant || '/' || day"):
        op.execute(f"INSERT INTO counted (id, {names}) SELECT {account}, {sums} FROM ledger GROUP BY {account}")  # noqa: S608
    for name in COUNTED:
        of_it = f"SELECT {name} FROM counted WHERE counted.id = balances.id"  # noqa: S608 - our own names
        op.execute(f"UPDATE balances SET {name} = COALESCE(({of_it}), 0)")  # noqa: S608
    op.drop_table("counted")


def _sum_experiments() -> None:
    """Make a balance for each experiment."""
    names = ", ".join(SUMS)
    sums = ", ".join(f"SUM({name})" for name in SUMS)
    op.execute(
        f"INSERT INTO balances (id, {names}) SELECT experiment_id, {sums} FROM ledger"  # noqa: S608 - our own names
        " WHERE experiment_id IS NOT NULL GROUP BY experiment_id"
    )
