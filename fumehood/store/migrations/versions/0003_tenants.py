"""Tenants and their keys, quotas and balances, leases of GPUs, the switch, the audit, comments, and answers kept."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

SUMS = {"usd": "real", "tokens": "whole", "cpu_s": "real", "gpu_s": "real", "bytes": "whole", "running": "whole"}
SUMS |= {"gpus": "whole"}
NEW_SUMS = {name: kind for name, kind in SUMS.items() if name != "usd"}
MADE = ("balances", "leases", "tenants", "keys", "switches", "replies", "feedback", "audit")


def upgrade() -> None:
    """Go up to this version."""
    for name, column in (
        ("directions", _text("approve", server_default="auto")),
        ("ideas", _text("decision", server_default="open")),
        ("executions", _number("gpus", "whole", server_default="0")),
    ):
        with op.batch_alter_table(name) as table:
            table.add_column(column)
        with op.batch_alter_table(name) as table:
            table.alter_column(column.name, server_default=None)
    op.drop_index("ix_directions_tenant", "directions")
    op.create_index("ix_directions_tenant_row", "directions", ["tenant", "row"])
    op.create_index("ix_directions_tenant_state_row", "directions", ["tenant", "state", "row"])
    _extend_ledger()
    _create("balances", *(_number(name, kind) for name, kind in SUMS.items()))
    _create("leases", _text("tenant", nullable=True), _text("execution_id", nullable=True), *_real("since", "beat_at"))
    _index("leases", "execution_id")
    _create("tenants", _text("name"), *_real("weight"), _json("quotas"), *_real("created_at"), unique=("id", "name"))
    ends: Any = (
        sa.Column("expires_at", sa.Double(), nullable=True),
        sa.Column("revoked_at", sa.Double(), nullable=True),
    )
    _create(
        "keys",
        _text("tenant"),
        _text("name"),
        _json("scopes"),
        _text("digest"),
        *_real("created_at"),
        *ends,
        unique=("id", "digest"),
    )
    _index("keys", "tenant")
    flags: Any = (
        sa.Column("is_paused", sa.Boolean(), nullable=False),
        sa.Column("is_killed", sa.Boolean(), nullable=False),
    )
    _create("switches", *flags, *_real("at"))
    _create("replies", _text("request"), _text("made"), *_real("at"))
    owner = sa.ForeignKeyConstraint(["direction_id"], ["directions.id"], name="fk_feedback_direction_id")
    words = (_text("direction_id"), _text("experiment_id", nullable=True), _text("author"), _text("text"))
    _create("feedback", *words, *_real("at"), owner)
    _index("feedback", "direction_id")
    told = (_text("actor"), _text("action"), _text("tenant"), _text("subject"), _json("detail"))
    _create("audit", *told, *_real("at"), _text("seal"), counter="seq", sqlite_autoincrement=True)
    _index("audit", "tenant")
    _index("audit", "seal")
    _keep_audit()
    _sum_up()


def downgrade() -> None:
    """Go back to the version before."""
    for made in reversed(MADE):
        op.drop_table(made)
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP FUNCTION audit_is_kept()")
    op.drop_index("ix_ledger_tenant", "ledger")
    with op.batch_alter_table("ledger") as table:
        for name in ("tenant", "day", *NEW_SUMS):
            table.drop_column(name)
    op.drop_index("ix_directions_tenant_state_row", "directions")
    op.drop_index("ix_directions_tenant_row", "directions")
    op.create_index("ix_directions_tenant", "directions", ["tenant"])
    for owner, column in (("directions", "approve"), ("ideas", "decision"), ("executions", "gpus")):
        with op.batch_alter_table(owner) as table:
            table.drop_column(column)


def _extend_ledger() -> None:
    with op.batch_alter_table("ledger") as table:
        for name in ("tenant", "day"):
            table.add_column(_text(name, server_default=""))
        for name, kind in NEW_SUMS.items():
            table.add_column(_number(name, kind, server_default="0"))
    op.execute(
        "UPDATE ledger SET tenant = COALESCE((SELECT tenant FROM directions WHERE directions.id = direction_id),"
        " 'ten_00000000000000000000000000'), day = '1970-01-01', tokens = input_tokens + cached_tokens + output_tokens"
    )
    with op.batch_alter_table("ledger") as table:
        for name in ("tenant", "day", *NEW_SUMS):
            table.alter_column(name, server_default=None)
    _index("ledger", "tenant")


def _sum_up() -> None:
    """Fill the balances from the lines that are there; on what day they were is not known any more."""
    names = ", ".join(SUMS)
    sums = ", ".join(f"SUM({name})" for name in SUMS)
    for account in ("direction_id", "tenant"):
        op.execute(f"INSERT INTO balances (id, {names}) SELECT {account}, {sums} FROM ledger GROUP BY {account}")  # noqa: S608 - our own names


def _keep_audit() -> None:
    """Have the database itself refuse to change what is written there, but for a seal that is not yet set."""
    if op.get_bind().dialect.name == "postgresql":
        op.execute(
            """
            CREATE FUNCTION audit_is_kept() RETURNS trigger AS $$ BEGIN
                IF TG_OP = 'UPDATE' AND OLD.seal = '' AND to_jsonb(NEW) - 'seal' = to_jsonb(OLD) - 'seal' THEN
                    RETURN NEW;
                END IF;
                RAISE EXCEPTION 'what the audit holds is never changed';
            END $$ LANGUAGE plpgsql
            """
        )
        op.execute(
            "CREATE TRIGGER audit_is_kept BEFORE UPDATE OR DELETE ON audit FOR EACH ROW"
            " EXECUTE FUNCTION audit_is_kept()"
        )
        return
    told = ("seq", "id", "actor", "action", "tenant", "subject", "detail", "at")
    changed = " OR ".join(f"OLD.{name} IS NOT NEW.{name}" for name in told)
    refusal = "BEGIN SELECT RAISE(ABORT, 'what the audit holds is never changed'); END"
    op.execute(f"CREATE TRIGGER audit_is_kept BEFORE DELETE ON audit {refusal}")
    op.execute(f"CREATE TRIGGER audit_is_as_it_was BEFORE UPDATE ON audit WHEN OLD.seal != '' OR {changed} {refusal}")


def _create(table: str, *columns: Any, counter: str = "row", unique: tuple[str, ...] = ("id",), **options: Any) -> None:
    number = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    op.create_table(
        table,
        sa.Column(counter, number, autoincrement=True, nullable=False),
        _text("id"),
        *columns,
        sa.PrimaryKeyConstraint(counter, name=f"pk_{table}"),
        *(sa.UniqueConstraint(name, name=f"uq_{table}_{name}") for name in unique),
        **options,
    )


def _index(table: str, column: str) -> None:
    op.create_index(f"ix_{table}_{column}", table, [column])


def _text(name: str, *, nullable: bool = False, server_default: str | None = None) -> sa.Column[Any]:
    kind = sa.String().with_variant(sa.String(collation="C"), "postgresql")
    return sa.Column(name, kind, nullable=nullable, server_default=server_default)


def _number(name: str, kind: str, server_default: str | None = None) -> sa.Column[Any]:
    of: Any = sa.Double() if kind == "real" else sa.BigInteger()
    return sa.Column(name, of, nullable=False, server_default=server_default)


def _real(*names: str) -> list[sa.Column[Any]]:
    return [_number(name, "real") for name in names]


def _json(name: str) -> sa.Column[Any]:
    return sa.Column(name, sa.JSON(none_as_null=True), nullable=False)
