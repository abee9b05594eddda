"""Confirmations: a direction's rule, the arm that a run is measured on, and what an experiment replicates."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0009_confirmation"
down_revision = "0008_llm"
branch_labels = None
depends_on = None

TEXT = sa.String().with_variant(sa.String(collation="C"), "postgresql")
JSON = sa.JSON(none_as_null=True)
ADDED: dict[str, dict[str, tuple[Any, str | None]]] = {
    "directions": {"rule": (JSON, None)},
    "experiments": {"replicates": (TEXT, None)},
    "runs": {"arm": (TEXT, "screen"), "confirms": (TEXT, None)},
}
"""By table, each new column's type, and what it holds in rows that are there; it may be empty where that is nothing."""


def upgrade() -> None:
    """Go up to this version."""
    for table, columns in ADDED.items():
        with op.batch_alter_table(table) as changed:
            for name, (kind, held) in columns.items():
                changed.add_column(sa.Column(name, kind, nullable=held is None, server_default=held))
        with op.batch_alter_table(table) as changed:
            for name, (_, held) in columns.items():
                if held is not None:
                    changed.alter_column(name, server_default=None)


def downgrade() -> None:
    """Go back to the version before; confirmations' runs have no place there."""
    op.execute("DELETE FROM runs WHERE arm = 'confirm'")
    for table, columns in ADDED.items():
        with op.batch_alter_table(table) as changed:
            for name in columns:
                changed.drop_column(name)
