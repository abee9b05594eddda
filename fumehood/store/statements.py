"""Statements that are built once: building one takes longer than carrying it out."""

from __future__ import annotations

import functools
from typing import Any

from sqlalchemy import Select, Table, bindparam, select
from sqlalchemy.dialects import postgresql, sqlite

Insert = sqlite.Insert | postgresql.Insert


@functools.cache
def found(table: Table, given: tuple[str, ...], absent: tuple[str, ...] = ()) -> Select[Any]:
    """Return the rows, in the order they were saved, that equal parameters of the names `given`, and lack `absent`."""
    query = select(table).order_by(table.c.row)
    for name in given:
        query = query.where(table.c[name] == bindparam(name))
    for name in absent:
        query = query.where(table.c[name].is_(None))
    return query


@functools.cache
def insert(table: Table, dialect: str) -> Insert:
    """Return an insert that may be told what to do on a conflict, which only the two dialects' own can."""
    return postgresql.insert(table) if dialect == "postgresql" else sqlite.insert(table)


@functools.cache
def inserted_once(table: Table, dialect: str, key: str) -> Any:
    """Return an insert that leaves out a row whose `key` is there, and returns the ids of the others."""
    return insert(table, dialect).on_conflict_do_nothing(index_elements=[key]).returning(table.c.id)


@functools.cache
def saved(table: Table, dialect: str, columns: tuple[str, ...]) -> Insert:
    """Return an insert of these columns that replaces a row with the same id."""
    fresh = insert(table, dialect)
    return fresh.on_conflict_do_update(index_elements=["id"], set_={name: fresh.excluded[name] for name in columns})


@functools.cache
def added(table: Table, dialect: str, columns: tuple[str, ...]) -> Insert:
    """Return an insert of these columns that is added, number by number, to a row with the same id."""
    fresh = insert(table, dialect)
    sums = {name: table.c[name] + fresh.excluded[name] for name in columns if name != "id"}
    return fresh.on_conflict_do_update(index_elements=["id"], set_=sums)
