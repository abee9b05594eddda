"""Connections to the database, set up so that several processes and users can share it."""

from __future__ import annotations

import contextlib
import os
import select
import sqlite3
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, ExceptionContext, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, InvalidatePoolError

from fumehood.errors import BadInputError, MachineUnfitError
from fumehood.store.statements import plans_are_lost, said_to_driver

BUSY_TIMEOUT_S = 30.0
DIALECTS = ("sqlite", "postgresql")
CONNECT_TIMEOUT_S = 5
POOL_SIZE = 5
POOL_OVERFLOW = 10
"""Connections to PostgreSQL that a process keeps, and opens beyond them for as long as its threads need them."""
PLANNED_AFTER = 5
_WRITERS = 0x46554D45
"""The number of the advisory lock that a writing transaction holds on PostgreSQL."""


def connect(url: str, *, migrating: bool = False) -> Engine:
    """Return an engine for the database at `url`; nothing is opened yet.

    One for migrating waits as long as it takes, counts no commits, and on SQLite lets foreign keys rest.
    """
    parsed = _parsed(url)
    dialect = parsed.get_backend_name()
    if dialect not in DIALECTS:
        raise BadInputError(f"The database must be one of {', '.join(DIALECTS)}, not {dialect!r}.")
    if dialect == "postgresql":
        return _postgresql(parsed, migrating=migrating)
    if not parsed.database or parsed.database == ":memory:":
        raise BadInputError("A SQLite database needs a file, since several processes share it.")
    return _sqlite(parsed, foreign_keys=not migrating)


def holds_password(url: str) -> bool:
    """Whether a database's address says a password, in its own place or among the driver's options."""
    parsed = _parsed(url)
    return bool(parsed.password) or any("password" in name.lower() for name in parsed.query)


def _parsed(url: str) -> URL:
    try:
        return make_url(url)
    except ArgumentError:
        raise BadInputError("The database's address is not a URL such as sqlite:////var/lib/fumehood.db.") from None


def _postgresql(url: URL, *, migrating: bool) -> Engine:
    if url.drivername not in {"postgresql", "postgresql+psycopg"}:
        raise BadInputError("PostgreSQL is reached by psycopg; write postgresql+psycopg://USER@HOST/DATABASE.")
    try:
        engine = create_engine(
            url.set(drivername="postgresql+psycopg").difference_update_query(["prepare_threshold"]),
            pool_size=POOL_SIZE,
            max_overflow=POOL_OVERFLOW,
            pool_timeout=BUSY_TIMEOUT_S,
            # Transactions are opened and closed below, together with what stands at their ends: what is asked of a
            # server takes less time than asking it.
            isolation_level="AUTOCOMMIT",
            skip_autocommit_rollback=False,
            hide_parameters=True,
            connect_args=_session(url, migrating=migrating) | {"prepare_threshold": _planned_after(url)},
        )
    except ModuleNotFoundError as error:
        raise MachineUnfitError(
            f"The driver of the PostgreSQL database is not installed ({error.name}).",
            remedy="Install it with: pip install 'psycopg[binary]'; or leave FUMEHOOD_DATABASE_URL empty.",
        ) from error

    event.listen(engine, "checkout", _check)
    event.listen(engine, "handle_error", _drop_lost_plans)

    @event.listens_for(engine, "begin")
    def _open(connection: Connection) -> None:
        if _writes(connection):
            # One writer at a time, as in SQLite: what a transaction has read (a sum, a state) still holds when it
            # writes, and events are seen in the order of their numbers.
            lock = f"SELECT pg_advisory_xact_lock({_WRITERS})"
            lazily = "" if _is_durable(connection) else "SET LOCAL synchronous_commit TO off; "
            said_to_driver(connection, f"BEGIN ISOLATION LEVEL READ COMMITTED; {lazily}{lock}")
        elif not _is_single(connection):
            # One snapshot for the whole transaction; without writes it never has to be tried again.
            said_to_driver(connection, "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY")

    @event.listens_for(engine, "commit")
    def _count(connection: Connection) -> None:
        # Seen by others together with what it counts; a transaction that changed nothing has no number of its own.
        if _writes(connection) and not migrating:
            count = "UPDATE changes SET number = number + 1 WHERE pg_current_xact_id_if_assigned() IS NOT NULL"
            said_to_driver(connection, f"{count}; COMMIT")

    return engine


def _check(raw: Any, *_: object) -> None:
    """Find a connection that a restart of the server cut before it is used, and have it and the others opened anew."""
    idle = select.poll()
    idle.register(raw.fileno(), select.POLLIN)
    # Nobody has asked anything yet, so all that can be there to read is the end.
    if idle.poll(0):
        raise InvalidatePoolError


def _session(url: URL, *, migrating: bool) -> dict[str, Any]:
    """Return how a connection to PostgreSQL behaves, but for what its URL says itself."""
    limit_ms = 0 if migrating else int(BUSY_TIMEOUT_S * 1000)
    limits = (f"-c {name}={limit_ms}" for name in ("statement_timeout", "idle_in_transaction_session_timeout"))
    given: dict[str, Any] = {
        "connect_timeout": CONNECT_TIMEOUT_S,
        "application_name": "fumehood",
        # A server that vanished without a word is noticed as soon as one that does not answer.
        "keepalives_idle": 10,
        "keepalives_interval": 5,
        "keepalives_count": 3,
        "tcp_user_timeout": int(BUSY_TIMEOUT_S * 1000),
        "options": " ".join(limits),
    }
    return {name: value for name, value in given.items() if name not in url.query}


def _planned_after(url: URL) -> int | None:
    """Return after how many times a connection keeps a statement's plan; None where the URL says `none`: never.

    Planning the gateway's question takes longer than answering it. A proxy that gives transactions of one session to
    several of a server's loses plans.
    """
    said = url.query.get("prepare_threshold", str(PLANNED_AFTER))
    if said == "none":
        return None
    if not isinstance(said, str) or not said.isdecimal():
        raise BadInputError("The database's `prepare_threshold` is a number or `none`.")
    return int(said)


def _drop_lost_plans(context: ExceptionContext) -> None:
    """Open a connection anew whose plans a migration outdated, or a proxy lost; what it did is done again."""
    if plans_are_lost(context.original_exception):
        context.is_disconnect = True


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
        _keep_a_log(raw)
        raw.execute("PRAGMA synchronous=FULL")
        raw.execute(f"PRAGMA foreign_keys={'ON' if foreign_keys else 'OFF'}")

    @event.listens_for(engine, "begin")
    def _open(connection: Connection) -> None:
        # A transaction that reads and then writes fails when another wrote in between, and no waiting mends
        # that; so one that may write takes the write lock at its start.
        write = _writes(connection)
        if connection.info.get("writes") is not write:
            said_to_driver(connection, f"PRAGMA query_only={'OFF' if write else 'ON'}")
            connection.info["writes"] = write
        durable = _is_durable(connection)
        if write and connection.info.get("durable", True) is not durable:
            # The log is synced as a whole and in order, so the next durable commit takes this one with it.
            said_to_driver(connection, f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")
            connection.info["durable"] = durable
        said_to_driver(connection, "BEGIN IMMEDIATE" if write else "BEGIN")

    return engine


def _keep_a_log(raw: Any) -> None:
    """Let what is written go to a log first, so that readers and a writer do not wait for each other.

    SQLite refuses at once, waiting for nobody, where two processes turn this on in a new file at the same moment.
    """
    until = time.monotonic() + BUSY_TIMEOUT_S
    while True:
        try:
            raw.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > until:
                raise
        time.sleep(0.01)


def _writes(connection: Connection) -> bool:
    return bool(connection.get_execution_options().get("fumehood_write", True))


def _is_durable(connection: Connection) -> bool:
    return bool(connection.get_execution_options().get("fumehood_durable", True))


def _is_single(connection: Connection) -> bool:
    """Whether what is asked is one question, which needs no transaction around it."""
    return bool(connection.get_execution_options().get("fumehood_single", False))


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
            with self._engine.connect() as connection:
                connection.execution_options(fumehood_write=False, fumehood_single=True)
                return int(connection.exec_driver_sql("SELECT number FROM changes").scalar_one())
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
