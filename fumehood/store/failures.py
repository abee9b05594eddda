"""What a database's driver raises, said in the platform's own errors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.exc import DBAPIError, DisconnectionError, InterfaceError, InvalidRequestError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from fumehood.errors import ConflictError, StoreUnavailableError

READ_ONLY = {"25006", "SQLITE_READONLY"}
"""A write in a transaction that only reads, or on a server that lets nobody write just now."""
OURS = {"SQLITE_ERROR"}
"""A statement that is wrong, which SQLite's driver does not tell from a database that is away."""
FULL = {"53100", "SQLITE_FULL"}
"""No room for what is to be written."""


def said_by(error: DBAPIError) -> str:
    """Return the first line in which a driver says what happened."""
    lines = [line.strip("- \t") for line in str(error.orig).strip().splitlines()] or [type(error.orig).__name__]
    # Where a host has several addresses, the first line only announces what each of them answered.
    return lines[1] if lines[0].endswith(":") and len(lines) > 1 else lines[0]


@contextmanager
def typed(*, write: bool) -> Iterator[None]:
    """Raise `StoreUnavailableError` for a database that is away, and `ConflictError` for a write among reads."""
    try:
        yield
    except InvalidRequestError as error:
        # Connections that end as soon as they are made, as a proxy's do while its server is away.
        if not isinstance(error.__cause__ or error.__context__, DisconnectionError):
            raise
        raise _unavailable("every connection ends at once") from error
    except PoolTimeoutError as error:
        raise _unavailable("every connection of this process is in use") from error
    except DBAPIError as error:
        code = _code(error)
        if code in READ_ONLY and not write:
            raise ConflictError("This transaction was opened for reading only.") from error
        if code in FULL:
            raise StoreUnavailableError(
                "The disk of the database is full.", remedy="Make room: what waits goes on by itself."
            ) from error
        if error.connection_invalidated or code in READ_ONLY or _is_away(error, code):
            raise _unavailable(said_by(error)) from error
        raise


def _code(error: DBAPIError) -> str:
    """Return PostgreSQL's SQLSTATE or SQLite's name of what happened."""
    return str(getattr(error.orig, "sqlstate", None) or getattr(error.orig, "sqlite_errorname", None) or "")


def _is_away(error: DBAPIError, code: str) -> bool:
    return isinstance(error, (OperationalError, InterfaceError)) and code not in OURS


def _unavailable(why: str) -> StoreUnavailableError:
    return StoreUnavailableError(
        f"The database does not answer ({why}).", remedy="Start it, or look at FUMEHOOD_DATABASE_URL."
    )
