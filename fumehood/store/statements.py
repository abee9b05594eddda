"""Statements that are said once for each kind of database: building one takes longer than carrying it out."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import itemgetter
from typing import Any

from sqlalchemy import JSON, Boolean, Connection, Dialect, String, Table, bindparam, exists, func, or_, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DBAPIError

from fumehood.domain.tenant import PLATFORM
from fumehood.store import tables

Insert = sqlite.Insert | postgresql.Insert
LOST_PLANS = {"26000", "42P05"}
"""SQLSTATEs of a prepared statement that is not there, or is another connection's."""
OUTDATED_PLAN = "0A000"


class Statement:
    """The text of a statement for one kind of database, and how its parameters and its rows are said there.

    Carried out as text, since even a statement that SQLAlchemy knows already takes it longer to look up and to fill in
    than it takes a database to do.
    """

    def __init__(self, said: Any, dialect: Dialect, *, given: Sequence[str] = (), rows: Iterable[Any] = ()) -> None:
        compiled = said.compile(dialect=dialect, column_keys=list(given) or None)
        self.text = str(compiled)
        self._constants = {name: value for name, value in compiled.params.items() if value is not None}
        self._in_order = _taker(compiled.positiontup or ()) if compiled.positional else None
        writes = {
            name: bind.type.dialect_impl(dialect).bind_processor(dialect) for bind, name in compiled.bind_names.items()
        }
        self._writes = {name: process for name, process in writes.items() if process}
        columns = tuple(rows)
        self._names = tuple(column.name for column in columns)
        # Of all kinds of columns only these come as something else from one driver or the other.
        kinds = {column.name: column.type for column in columns if isinstance(column.type, JSON | Boolean)}
        reads = {name: kind.dialect_impl(dialect).result_processor(dialect, None) for name, kind in kinds.items()}
        self._reads = {name: process for name, process in reads.items() if process}

    def run(self, connection: Connection, *values: Mapping[str, Any]) -> Sequence[Sequence[Any]]:
        """Carry it out, for several at once where several are given; return the rows as the driver has them."""
        return said_to_driver(connection, self.text, *(self._said(one) for one in values))

    def rows(self, connection: Connection, values: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Carry it out and return the rows, by the names of their columns."""
        return [self._read(row) for row in self.run(connection, values)]

    def _said(self, values: Mapping[str, Any]) -> Any:
        said = {**self._constants, **values}
        for name, process in self._writes.items():
            said[name] = process(said[name])
        return self._in_order(said) if self._in_order else said

    def _read(self, row: Sequence[Any]) -> dict[str, Any]:
        read = dict(zip(self._names, row, strict=True))
        for name, process in self._reads.items():
            read[name] = process(read[name])
        return read


def _taker(names: Sequence[str]) -> Callable[[Mapping[str, Any]], tuple[Any, ...]]:
    """Return what takes the values of these names, in this order: of several at once, which is twice as fast."""
    return itemgetter(*names) if len(names) > 1 else lambda said: tuple(said[name] for name in names)


def said_to_driver(connection: Connection, text: str, *values: Any) -> Sequence[Sequence[Any]]:
    """Carry a statement out past SQLAlchemy, which takes longer for one than a database does; what fails, it names."""
    driver: Any = connection.connection.driver_connection
    errors = connection.dialect.loaded_dbapi.Error
    try:
        cursor = driver.cursor()
        if len(values) > 1:
            cursor.executemany(text, values)
            return ()
        cursor.execute(text, *values)
        return cursor.fetchall() if cursor.description else ()
    except errors as error:
        is_lost = connection.dialect.is_disconnect(error, driver, None) or plans_are_lost(error)
        if is_lost:
            connection.invalidate(error)
            # The others are likely no better.
            connection.engine.dispose()
        raise DBAPIError.instance(
            text, None, error, errors, hide_parameters=True, connection_invalidated=is_lost, dialect=connection.dialect
        ) from error


def plans_are_lost(error: BaseException | None) -> bool:
    """Tell whether a migration outdated a connection's plans, or a proxy lost them: it is opened anew."""
    code = getattr(error, "sqlstate", "")
    return code in LOST_PLANS or (code == OUTDATED_PLAN and "cached plan" in str(error))


@functools.cache
def _spoken(dialect: str) -> Dialect:
    if dialect == "postgresql":
        from sqlalchemy.dialects.postgresql import psycopg

        return psycopg.dialect()  # type: ignore[no-untyped-call]
    return sqlite.dialect()


@functools.cache
def found(table: Table, dialect: str, given: tuple[str, ...], absent: tuple[str, ...] = ()) -> Statement:
    """Return the rows, in the order they were saved, that equal parameters of the names `given`, and lack `absent`."""
    query = select(table).order_by(table.c.row)
    for name in given:
        query = query.where(table.c[name] == bindparam(name))
    for name in absent:
        query = query.where(table.c[name].is_(None))
    return Statement(query, _spoken(dialect), rows=table.columns)


@functools.cache
def inserted_once(table: Table, dialect: str, key: str, columns: tuple[str, ...]) -> Statement:
    """Return an insert of these columns that leaves out a row whose `key` is there, and returns the others' ids."""
    once = _insert(table, dialect).on_conflict_do_nothing(index_elements=[key]).returning(table.c.id)
    return Statement(once, _spoken(dialect), given=columns, rows=[table.c.id])


@functools.cache
def many_inserted_once(table: Table, dialect: str, key: str) -> Any:
    """Return the same as SQLAlchemy's own, which tells of many rows in few messages which were left out."""
    return _insert(table, dialect).on_conflict_do_nothing(index_elements=[key]).returning(table.c.id)


@functools.cache
def saved(table: Table, dialect: str, columns: tuple[str, ...]) -> Statement:
    """Return an insert of these columns that replaces a row with the same id."""
    fresh = _insert(table, dialect)
    replaced = fresh.on_conflict_do_update(index_elements=["id"], set_={name: fresh.excluded[name] for name in columns})
    return Statement(replaced, _spoken(dialect), given=columns)


@functools.cache
def added(table: Table, dialect: str, columns: tuple[str, ...], count: int) -> Statement:
    """Return an insert of rows with ids `id_0`, `id_1` ..., each of which is added to a row with the same id.

    The other columns are the same for all `count` of them, and numbers.
    """
    shared = {name: bindparam(name, type_=table.c[name].type) for name in columns if name != "id"}
    rows = [{"id": bindparam(f"id_{at}", type_=String), **shared} for at in range(count)]
    fresh = _insert(table, dialect).values(rows)
    sums = {name: table.c[name] + fresh.excluded[name] for name in shared}
    return Statement(fresh.on_conflict_do_update(index_elements=["id"], set_=sums), _spoken(dialect))


@functools.cache
def admission(dialect: str) -> Statement:
    """Return in one row what `Admission` says of parameters `direction`, `experiment`, `step`, `token` and `day`."""
    directions, experiments, steps, switches = (
        one.c for one in (tables.DIRECTIONS, tables.EXPERIMENTS, tables.STEPS, tables.SWITCHES)
    )
    balances = {name: tables.BALANCES.alias(name) for name in ("token", "experiment", "direction", "total", "day")}
    token, experiment, direction, total, day = balances.values()
    killed = exists().where(switches.is_killed, or_(switches.id == PLATFORM, switches.id == directions.tenant))
    revoked = exists().where(tables.REVOCATIONS.c.id == bindparam("token", type_=String))
    columns = [
        directions.tenant,
        directions.state.label("direction"),
        directions.budget_usd,
        directions.budget_usd_per_experiment,
        directions.budget_usd_per_call,
        killed.label("is_killed"),
        revoked.label("is_revoked"),
        experiments.state.label("experiment"),
        steps.state.label("step"),
        steps.fence,
        tables.TENANTS.c.quotas,
        *(
            func.coalesce(balances[name].c.usd, 0.0).label(f"{name}_usd")
            for name in ("token", "experiment", "direction")
        ),
        *(
            func.coalesce(one.c[name], 0).label(f"{one.name}_{name}")
            for one in (total, day)
            for name in ("usd", "tokens")
        ),
    ]
    joined = (
        tables.DIRECTIONS.outerjoin(tables.EXPERIMENTS, experiments.id == bindparam("experiment", type_=String))
        .outerjoin(tables.STEPS, steps.id == bindparam("step", type_=String))
        .outerjoin(tables.TENANTS, tables.TENANTS.c.id == directions.tenant)
        .outerjoin(token, token.c.id == bindparam("token", type_=String))
        .outerjoin(experiment, experiment.c.id == bindparam("experiment", type_=String))
        .outerjoin(direction, direction.c.id == directions.id)
        .outerjoin(total, total.c.id == directions.tenant)
        .outerjoin(day, day.c.id == directions.tenant + "/" + bindparam("day", type_=String))
    )
    asked = select(*columns).select_from(joined).where(directions.id == bindparam("direction", type_=String))
    return Statement(asked, _spoken(dialect), rows=columns)


def _insert(table: Table, dialect: str) -> Insert:
    """Return an insert that may be told what to do on a conflict, which only the two dialects' own can."""
    return postgresql.insert(table) if dialect == "postgresql" else sqlite.insert(table)
