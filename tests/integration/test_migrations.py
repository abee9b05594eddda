"""Migrations: up, down and up again, by several at once, and no drift from the row classes."""

from __future__ import annotations

import dataclasses
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy.exc import DBAPIError

from fumehood.domain.direction import Direction
from fumehood.domain.execution import ExecutionState, Kind, Verdict
from fumehood.domain.experiment import Arm, Execution, Run
from fumehood.domain.ids import DirectionId, ExecutionId, ExperimentId, RunId, TenantId
from fumehood.domain.log import Leaf, TreeHead
from fumehood.errors import MachineUnfitError, TamperedError
from fumehood.services import audit
from fumehood.store import plain, tables
from fumehood.store.clock import SystemClock
from fumehood.store.engine import connect
from fumehood.store.migrate import downgrade, upgrade
from fumehood.store.sql import SqlStore, open_store
from fumehood.store.tables import Base
from tests.fakes.postgres import PostgresServer

DIRECTION = Direction(
    id=DirectionId("dir_1"),
    tenant=TenantId("ten_1"),
    template="t",
    text="",
    model="m",
    review_model="m",
    profile="tiny",
    ideas=1,
    runs=1,
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "made" / "store.db"


@pytest.fixture
def url(path: Path) -> str:
    return f"sqlite:///{path}"


def query(path: Path, sql: str) -> list[str]:
    connection = sqlite3.connect(path)
    try:
        return [str(row[0]) for row in connection.execute(sql)]
    finally:
        connection.close()


def schema_of(path: Path) -> list[list[str]]:
    """Return what was created, each as a list of its lines: a table that was made anew has its rules in any order."""
    found = query(path, "SELECT sql FROM sqlite_master WHERE sql IS NOT NULL ORDER BY name")
    return [sorted(line.strip(" \t,") for line in one.splitlines()) for one in found]


def test_up_down_and_up_again_ends_where_it_began(url: str, path: Path) -> None:
    upgrade(url)
    first = schema_of(path)
    downgrade(url)
    assert query(path, "SELECT name FROM sqlite_master WHERE name NOT LIKE 'sqlite_%'") == ["alembic_version"]
    upgrade(url)
    assert schema_of(path) == first


def postgresql_schema(server: PostgresServer, url: str) -> list[tuple[object, ...]]:
    return server.run(
        "SELECT table_name, column_name, data_type, is_nullable, collation_name FROM information_schema.columns"
        " WHERE table_schema = 'public' UNION ALL SELECT tablename, indexname, indexdef, '', '' FROM pg_indexes"
        " WHERE schemaname = 'public' ORDER BY 1, 2",
        database=url.rpartition("/")[2],
    )


def test_postgresql_goes_up_down_and_up_again_too(postgres: PostgresServer) -> None:
    url = postgres.empty()
    upgrade(url, "0001")
    older = postgresql_schema(postgres, url)
    upgrade(url)
    first = postgresql_schema(postgres, url)
    assert {row[4] for row in first if row[1] == "id"} == {"C"}
    downgrade(url, "0001")
    assert postgresql_schema(postgres, url) == older
    downgrade(url)
    assert {row[0] for row in postgresql_schema(postgres, url)} == {"alembic_version"}
    upgrade(url)
    assert postgresql_schema(postgres, url) == first


def test_of_two_that_migrate_postgresql_at_once_one_works_and_the_other_waits(postgres: PostgresServer) -> None:
    url = postgres.empty()
    with ThreadPoolExecutor(2) as pool:
        script = "import sys; from fumehood.store.migrate import upgrade; upgrade(sys.argv[1])"
        commands = [[sys.executable, "-c", script, url]] * 2
        done = list(pool.map(lambda command: subprocess.run(command, capture_output=True, timeout=120), commands))
    assert [one.returncode for one in done] == [0, 0], done


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_the_migrated_tables_are_those_of_the_row_classes(url: str, database: str, postgres: PostgresServer) -> None:
    url = url if database == "sqlite" else postgres.empty()
    upgrade(url)
    engine = connect(url)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        assert compare_metadata(context, Base.metadata) == []
    engine.dispose()


@pytest.mark.parametrize(
    ("table", "shape"),
    [
        (tables.DIRECTIONS, plain.DIRECTION),
        (tables.IDEAS, plain.IDEA),
        (tables.EXPERIMENTS, plain.EXPERIMENT),
        (tables.RUNS, plain.RUN),
        (tables.EXECUTIONS, plain.EXECUTION),
        (tables.CALLS, plain.CALL),
        (tables.STEPS, plain.STEP),
        (tables.EVENTS, plain.EVENT),
        (tables.LEDGER, plain.ENTRY),
        (tables.BALANCES, plain.BALANCE),
        (tables.LEASES, plain.LEASE),
        (tables.TENANTS, plain.TENANT),
        (tables.KEYS, plain.KEY),
        (tables.SWITCHES, plain.SWITCH),
        (tables.REVOCATIONS, plain.REVOCATION),
        (tables.REPLIES, plain.REPLY),
        (tables.FEEDBACK, plain.FEEDBACK),
        (tables.CATALOGUE, plain.CATALOGUE),
        (tables.AUDIT, plain.AUDIT),
        (tables.OUTPUTS, plain.OUTPUT),
        (tables.WORKERS, plain.WORKER),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_a_table_has_a_column_for_each_field(table: object, shape: object) -> None:
    columns = set(table.columns.keys()) - {"row"}  # type: ignore[attr-defined]
    assert columns == set(shape.columns) | set(shape.derived)  # type: ignore[attr-defined]


def test_going_up_again_keeps_what_is_there(url: str) -> None:
    store = open_store(url)
    with store.begin() as transaction:
        transaction.directions.save(DIRECTION)
    store.close()
    upgrade(url)
    store = SqlStore(url)
    with store.begin() as transaction:
        assert transaction.directions.find() == (DIRECTION,)
    store.close()


def test_processes_that_start_at_once_all_find_the_tables(url: str, path: Path) -> None:
    script = (
        "import sys\n"
        "from fumehood.store.sql import open_store\n"
        "sys.stdin.readline()\n"
        "store = open_store(sys.argv[1])\n"
        "with store.begin() as transaction:\n"
        "    print(transaction.directions.find())\n"
        "store.close()\n"
    )
    starters = [
        subprocess.Popen([sys.executable, "-c", script, url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(6)
    ]
    for starter in starters:
        assert starter.stdin
        starter.stdin.write("go\n")
        starter.stdin.flush()
    assert [starter.communicate(timeout=120)[0] for starter in starters] == ["()\n"] * 6
    assert [starter.returncode for starter in starters] == [0] * 6
    assert query(path, "SELECT version_num FROM alembic_version") == ["0014_catalogue"]


def test_connections_that_are_a_new_files_first_wait_for_each_other(tmp_path: Path) -> None:
    script = (
        "import sys\n"
        "from fumehood.store.engine import connect\n"
        "for url in sys.stdin:\n"
        "    engine = connect(url.strip())\n"
        "    with engine.begin() as connection:\n"
        "        print(connection.exec_driver_sql('PRAGMA journal_mode').scalar(), flush=True)\n"
        "    engine.dispose()\n"
    )
    openers = [
        subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(6)
    ]
    for file in range(60):
        for opener in openers:
            assert opener.stdin
            opener.stdin.write(f"sqlite:///{tmp_path}/{file}.db\n")
            opener.stdin.flush()
        assert [opener.stdout.readline() for opener in openers if opener.stdout] == ["wal\n"] * 6
    for opener in openers:
        opener.communicate(timeout=60)


def test_a_database_of_a_newer_version_is_refused_and_left_alone(url: str, path: Path) -> None:
    upgrade(url)
    connection = sqlite3.connect(path)
    connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.commit()
    connection.close()
    before = schema_of(path)
    with pytest.raises(MachineUnfitError, match="newer"):
        upgrade(url)
    assert schema_of(path) == before


def test_a_migration_that_would_leave_orphans_changes_nothing(url: str, path: Path) -> None:
    store = open_store(url)
    with store.begin() as transaction:
        transaction.directions.save(DIRECTION)
    store.close()
    connection = sqlite3.connect(path)
    row = "1, 'step_1', 'k', 'n', 'run', 'dir_none', '', '', 0, '{}', '[]', 0, 0, 0, ''"
    connection.execute(f"INSERT INTO steps SELECT {row}")
    connection.commit()
    connection.close()
    with pytest.raises(MachineUnfitError, match="nothing was changed"):
        upgrade(url)


def test_a_refused_migration_leaves_the_tables_as_they_were(url: str, path: Path) -> None:
    upgrade(url)
    before = schema_of(path)
    with pytest.raises(MachineUnfitError):
        downgrade(url, "nowhere")
    assert schema_of(path) == before


def test_a_database_that_cannot_be_used_is_one_sentence(tmp_path: Path) -> None:
    # Where no driver is installed that is said, else that nobody listens there.
    with pytest.raises(MachineUnfitError, match=r"The (driver|database)"):
        upgrade("postgresql+psycopg://nobody@127.0.0.1:9/none")
    environment = {
        "PATH": "/usr/bin:/bin",
        "FUMEHOOD_STATE_DIR": str(tmp_path),
        "FUMEHOOD_DATABASE_URL": "postgresql+psycopg://nobody@127.0.0.1:9/none",
    }
    command = [sys.executable, "-m", "worker", "--side", "write", "--gateway", "http://127.0.0.1:9"]
    told = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert (told.returncode, told.stdout, told.stderr.count("\n")) == (3, "", 1)


def test_a_broken_table_is_one_sentence(path: Path) -> None:
    upgrade(f"sqlite:///{path}")
    with sqlite3.connect(path) as broken:
        broken.execute("DROP TABLE alembic_version")
    with pytest.raises(MachineUnfitError, match="cannot be used"):
        upgrade(f"sqlite:///{path}")


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_what_was_spent_before_there_were_balances_is_summed_up(
    url: str, database: str, postgres: PostgresServer
) -> None:
    url = url if database == "sqlite" else postgres.empty()
    upgrade(url, "0002")
    engine = connect(url)
    columns = "id, call_id, direction_id, kind, role, model, usd, input_tokens, cached_tokens, output_tokens, at"
    with engine.begin() as connection:
        connection.execution_options(fumehood_write=True)
        for number, (kind, usd) in enumerate((("reserved", 2.0), ("settled", -0.5), ("reserved", 1.0))):
            direction = "dir_1" if number < 2 else "dir_2"
            connection.exec_driver_sql(
                f"INSERT INTO ledger ({columns}) VALUES"  # noqa: S608 - the test's own words
                f" ('evt_{number}', 'call', '{direction}', '{kind}', 'idea', 'm', {usd}, 1, 2, 3, 5.0)"
            )
    engine.dispose()
    upgrade(url)
    store = SqlStore(url)
    with store.begin(write=False) as tx:
        assert tx.ledger.spent_usd(DirectionId("dir_1")) == 1.5
        assert tx.ledger.balance("ten_00000000000000000000000000").usd == 2.5
        assert tx.ledger.balance("dir_2").tokens == 6
    store.close()


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_what_experiments_had_spent_before_they_had_balances_is_summed_up(
    url: str, database: str, postgres: PostgresServer
) -> None:
    url = url if database == "sqlite" else postgres.empty()
    upgrade(url, "0006_audit_truncate")
    rows = [
        ("evt_1", "exp_1", 2.0, 10, "2026-01-01"), ("evt_2", "exp_1", -0.5, 5, "2026-01-01"),
        ("evt_3", None, 1.0, 2, "2026-01-02"),
    ]  # fmt: skip
    engine = connect(url)
    ledger = sa.table("ledger", *(sa.column(one.name) for one in tables.LEDGER.columns if one.name != "token"))
    balances = sa.table("balances", *(sa.column(one.name) for one in tables.BALANCES.columns))
    with engine.begin() as connection:
        connection.execution_options(fumehood_write=True)
        numbers = dict.fromkeys(("tokens", "cpu_s", "gpu_s", "wall_s", "bytes", "running", "gpus"), 0)
        for key, experiment, usd, read, day in rows:
            words = {"call_id": key, "direction_id": "dir_1", "tenant": "ten_1", "kind": "settled", "role": "", "at": 1}
            counted = {"input_tokens": read, "cached_tokens": 1, "output_tokens": 3}
            told = {"id": key, "experiment_id": experiment, "usd": usd, "day": day, "model": "m"}
            connection.execute(ledger.insert().values(**words, **counted, **told, **numbers))
        for account, usd in (("dir_1", 2.5), ("ten_1", 2.5), ("ten_1/2026-01-01", 1.5)):
            connection.execute(balances.insert().values(id=account, usd=usd, **numbers))
    engine.dispose()
    for _ in range(2):
        upgrade(url)
        store = SqlStore(url)
        with store.begin(write=False) as tx:
            found = {key: tx.ledger.balance(key) for key in ("dir_1", "ten_1", "ten_1/2026-01-01", "exp_1")}
        store.close()
        assert {key: (one.usd, one.input_tokens, one.output_tokens) for key, one in found.items()} == {
            "dir_1": (2.5, 17, 9), "ten_1": (2.5, 17, 9), "ten_1/2026-01-01": (1.5, 15, 6), "exp_1": (1.5, 15, 6),
        }  # fmt: skip
        downgrade(url, "0006_audit_truncate")


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_what_held_a_gpu_holds_it_after_the_leases_were_made_anew(
    url: str, database: str, postgres: PostgresServer
) -> None:
    url = url if database == "sqlite" else postgres.empty()
    upgrade(url, "0010_log")
    engine = connect(url)
    added = {"gpu_memory_mib", "alone", "measured_as"}
    executions, directions = (
        sa.table(one.name, *(sa.column(column.name, column.type) for column in one.columns if column.name not in added))
        for one in (tables.EXECUTIONS, tables.DIRECTIONS)
    )
    with engine.begin() as connection:
        connection.execution_options(fumehood_write=True)
        connection.execute(directions.insert().values(plain.DIRECTION.row(DIRECTION)))
        for key, state, fence in (("exec_1", "launched", 2), ("exec_2", "launched", 0), ("exec_3", "removed", 0)):
            made = Execution(
                id=ExecutionId(key), direction_id=DIRECTION.id, kind=Kind.RUN, image="lab", command=("true",),
                state=ExecutionState(state), fence=fence, launched_at=5.0,
            )  # fmt: skip
            row = {name: value for name, value in plain.EXECUTION.row(made).items() if name not in added}
            connection.execute(executions.insert().values(row))
        for device, holder in (("GPU-0", "exec_1"), ("GPU-1", None), ("GPU-2", "exec_1")):
            connection.execute(
                sa.text("INSERT INTO leases (id, tenant, execution_id, since, beat_at) VALUES (:id, 't', :of, 1, 1)"),
                {"id": device, "of": holder},
            )
    engine.dispose()
    for _ in range(2):
        upgrade(url)
        store = SqlStore(url)
        with store.begin(write=False) as tx:
            held = tx.leases.find(ended_at=None)
        store.close()
        assert [(one.id, one.gpus, one.tenant, one.since) for one in held] == [
            ("exec_1:2", ("GPU-0", "GPU-2"), "ten_1", 5.0), ("exec_2:0", (), "ten_1", 5.0),
        ]  # fmt: skip
        downgrade(url, "0010_log")


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
@pytest.mark.parametrize(
    "change",
    ["DELETE FROM audit", "UPDATE audit SET actor = 'me'", "UPDATE audit SET seal = 'other' WHERE seal <> ''"],
)
def test_the_database_itself_keeps_the_audit(url: str, database: str, change: str, postgres: PostgresServer) -> None:
    url = url if database == "sqlite" else postgres.empty()
    store = open_store(url)
    for _ in range(2):
        with store.begin() as tx:
            audit.note(tx, SystemClock(), "key_1", "quota.set", tenant="ten_1", runs=4)
        audit.seal(store)
    assert audit.verify(store).entries == 2
    store.close()
    engine = connect(url)
    with engine.connect() as connection:
        connection.execution_options(fumehood_write=True)
        with pytest.raises(DBAPIError, match="never changed"):
            connection.exec_driver_sql(change)
    engine.dispose()


def test_the_audit_cannot_be_emptied_at_once(postgres: PostgresServer) -> None:
    url = postgres.empty()
    store = open_store(url)
    with store.begin() as tx:
        audit.note(tx, SystemClock(), "key_1", "quota.set")
    store.close()
    engine = connect(url)
    with engine.connect() as connection:
        connection.execution_options(fumehood_write=True)
        with pytest.raises(DBAPIError, match="never changed"):
            connection.exec_driver_sql("TRUNCATE audit")
    engine.dispose()
    downgrade(url, "0003")
    upgrade(url)


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
@pytest.mark.parametrize(
    "change", ["DELETE FROM leaves", "UPDATE leaves SET entry = 'other'", "DELETE FROM tree_heads", "TRUNCATE leaves"]
)
def test_the_database_itself_keeps_the_log(url: str, database: str, change: str, postgres: PostgresServer) -> None:
    if database == "sqlite" and change.startswith("TRUNCATE"):
        # SQLite has no such word: it deletes row by row, and asks the trigger.
        change = "DELETE FROM leaves WHERE 1"
    url = url if database == "sqlite" else postgres.empty()
    store = open_store(url)
    with store.begin() as tx:
        tx.log.append(Leaf(index=0, scope="exp_1", direction_id=DIRECTION.id, entry="{}", hashes=("ab" * 32,)))
        tx.log.add_head(TreeHead(size=1, root="ab" * 32, at=1.0, envelope="{}"))
    store.close()
    engine = connect(url)
    with engine.connect() as connection:
        connection.execution_options(fumehood_write=True)
        with pytest.raises(DBAPIError, match="never changed"):
            connection.exec_driver_sql(change)
    engine.dispose()
    downgrade(url, "0008_llm")
    upgrade(url)


def test_a_changed_audit_is_seen(url: str, path: Path) -> None:
    store = open_store(url)
    for _ in range(3):
        with store.begin() as tx:
            audit.note(tx, SystemClock(), "key_1", "quota.set", runs=4)
    assert audit.seal(store) == 3
    store.close()
    with sqlite3.connect(path) as connection:
        connection.execute("DROP TRIGGER audit_is_as_it_was")
        connection.execute("UPDATE audit SET actor = 'me' WHERE seq = 2")
    connection.close()
    store = SqlStore(url)
    with pytest.raises(TamperedError, match="entry 2"):
        audit.verify(store)
    store.close()


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_verdicts_that_were_there_before_are_counted_too(url: str, database: str, postgres: PostgresServer) -> None:
    url = url if database == "sqlite" else postgres.empty()
    upgrade(url, "0003")
    engine = connect(url)
    there = {column["name"] for column in sa.inspect(engine).get_columns("executions")}
    columns = {column.name: column.type for column in tables.EXECUTIONS.columns if column.name in there}
    rows = [
        {name: f"exec_{number}" if name == "id" else _nothing(kind) for name, kind in columns.items()}
        | {"row": number, "direction_id": DIRECTION.id, "kind": "run", "state": "removed", "outcome": outcome}
        for number, outcome in enumerate([{"verdict": "timed_out"}, {"verdict": "lost"}, None], 1)
    ]
    older = sa.table("executions", *(sa.column(name, kind) for name, kind in columns.items()))
    with engine.begin() as connection:
        known = {column["name"] for column in sa.inspect(connection).get_columns("directions")}
        then = sa.table("directions", *(sa.column(one.name, one.type) for one in tables.DIRECTIONS.columns))
        row = {name: value for name, value in plain.DIRECTION.row(DIRECTION).items() if name in known}
        connection.execute(then.insert().values(row))
        for row in rows:
            connection.execute(older.insert().values(row))
    engine.dispose()
    upgrade(url)
    store = SqlStore(url)
    with store.begin(write=False) as transaction:
        found = {one.verdict: one.number for one in transaction.figures(0.0).executions}
    store.close()
    engine = connect(url)
    with engine.connect() as connection:
        granted = {tuple(row) for row in connection.execute(sa.text("SELECT network, llm_usd FROM executions"))}
    engine.dispose()
    assert found == {Verdict.TIMED_OUT: 1, Verdict.LOST: 1, None: 1}
    assert granted == {("none", 0.0)}


def _nothing(kind: sa.types.TypeEngine[object]) -> object:
    return {} if isinstance(kind, sa.JSON) else 0 if isinstance(kind, (sa.BigInteger, sa.Double)) else ""


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_going_back_leaves_out_seeds_that_were_run_alone_and_matched_baselines(
    url: str, database: str, postgres: PostgresServer
) -> None:
    url = url if database == "sqlite" else postgres.empty()
    store = open_store(url)
    look = Run(
        id=RunId("look"),
        direction_id=DirectionId("dir_1"),
        experiment_id=ExperimentId("exp_1"),
        index=1,
        arm=Arm.CONFIRM,
    )
    pool = dataclasses.replace(look, id=RunId("pool"), experiment_id=None, index=0)
    matched = dataclasses.replace(look, id=RunId("matched"), index=0, arguments=("--updates=25",))
    alone = dataclasses.replace(look, id=RunId("alone"), alone=1)
    with store.begin() as tx:
        tx.directions.save(DIRECTION)
        tx.runs.save(look, pool, matched, alone)
    store.close()
    downgrade(url, "0010_log")
    upgrade(url)
    store = open_store(url)
    with store.begin(write=False) as tx:
        assert tx.runs.find() == (look, pool)
    store.close()
