"""Connections to the database, set up so that several processes and users can share it."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
import threading
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError

from fumehood.errors import BadInputError, MachineUnfitError

BUSY_TIMEOUT_S = 30.0
DIALECTS = ("sqlite", "postgresql")
_WRITERS = 0x46554D45
"""The number of the advisory lock that a writing transaction holds on PostgreSQL."""


def connect(url: str, *, foreign_keys: bool = True) -> Engine:
    """Return an engine for the database at `url`; nothing is opened yet."""
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise BadInputError("The database's address is not a URL such as sqlite:////var/lib/fumehood.db.") from None
    dialect = parsed.get_backend_name()
    if dialect not in DIALECTS:
        raise BadInputError(f"The database must be one of {', '.join(DIALECTS)}, not {dialect!r}.")
    if dialect == "postgresql":
        return _postgresql(parsed)
    if not parsed.database or parsed.database == ":memory:":
        raise BadInputError("A SQLite database needs a file, since several processes share it.")
    return _sqlite(parsed, foreign_keys=foreign_keys)


def _postgresql(url: URL) -> Engine:
    try:
        engine = create_engine(url, pool_pre_ping=True, hide_parameters=True)
    except ModuleNotFoundError as error:
        raise MachineUnfitError(
            f"The driver of the PostgreSQL database is not installed ({error.name}).",
            remedy="Install it with: pip install 'psycopg[binary]'; or leave FUMEHOOD_DATABASE_URL empty.",
        ) from error

    @event.listens_for(engine, "begin")
    def _open(connection: Connection) -> None:
        # One writer at a time, as in SQLite: what a transaction has read (a sum, a state) still holds when it
        # writes, and events are seen in the order of their numbers.
        if _writes(connection):
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_WRITERS})")

    return engine


def _sqlite(url: URL, *, foreign_keys: bool) -> Engine:
    _make_file(Path(url.database or ""))
    # Every thread of a door may hold one; the pool only saves the opening.
    engine = create_engine(
        url,
        pool_size=8,
        max_overflow=-1,
        hide_parameters=True,
        connect_args={"timeout": BUSY_TIMEOUT_S, "check_same_thread": False},
    )

    @event.listens_for(engine, "connect")
    def _set_up(raw: Any, _record: object) -> None:
        # The driver must not open transactions by its own rules; `_open` does.
        raw.isolation_level = None
        raw.execute("PRAGMA journal_mode=WAL")
        raw.execute("PRAGMA synchronous=FULL")
        raw.execute(f"PRAGMA foreign_keys={'ON' if foreign_keys else 'OFF'}")

    @event.listens_for(engine, "begin")
    def _open(connection: Connection) -> None:
        # A transaction that reads and then writes fails when another wrote in between, and no waiting mends
        # that; so one that may write takes the write lock at its start.
        write = _writes(connection)
        connection.exec_driver_sql(f"PRAGMA query_only={'OFF' if write else 'ON'}")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")

    return engine


def _writes(connection: Connection) -> bool:
    return bool(connection.get_execution_options().get("fumehood_write", True))


def _make_file(path: Path) -> None:
    """Make an empty database that belongs to its folder's owner, so that root's processes lock nobody out."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    if path.exists():
        return
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".new-")
    try:
        if os.geteuid() == 0:
            folder = path.parent.stat()
            os.fchown(handle, folder.st_uid, folder.st_gid)
        # A link appears whole, with its owner, and never replaces what another process made meanwhile.
        with contextlib.suppress(FileExistsError):
            os.link(name, path)
    finally:
        os.close(handle)
        Path(name).unlink()


class Version:
    """A number that moves with every commit of any connection, this process's included."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._lock = threading.Lock()
        self._watch: Any = None

    def read(self) -> int:
        """Return the number now."""
        if self._engine.dialect.name == "postgresql":
            with self._engine.connect().execution_options(fumehood_write=False) as connection:
                snapshot = connection.exec_driver_sql("SELECT txid_current_snapshot()::text").scalar_one()
            return int.from_bytes(hashlib.sha256(snapshot.encode()).digest()[:7], "big")
        with self._lock:
            if self._watch is None:
                # SQLite counts the commits of others only, so a connection that never writes sees them all.
                self._watch = self._engine.raw_connection()
                self._watch.detach()
            return int(self._watch.execute("PRAGMA data_version").fetchone()[0])

    def close(self) -> None:
        """Give the connection back."""
        with self._lock:
            if self._watch is not None:
                self._watch.close()
                self._watch = None
