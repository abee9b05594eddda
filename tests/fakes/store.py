"""A database file with every table, and a store whose process may be killed at a commit."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from enum import Enum
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from fumehood.store.memory import MemoryStore, MemoryTransaction
from fumehood.store.migrate import upgrade
from fumehood.store.sql import SqlStore


def migrated(path: Path) -> SqlStore:
    """Open a new database at a path; the migrations, which take half a second, run once for a process of tests."""
    path.write_bytes(_every_table())
    return SqlStore(f"sqlite:///{path}")


@cache
def _every_table() -> bytes:
    with TemporaryDirectory(prefix="fumehood-migrated-") as folder:
        path = Path(folder) / "store.db"
        upgrade(f"sqlite:///{path}")
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return path.read_bytes()


class KilledError(BaseException):
    """The process is gone; nothing catches it."""


class Moment(Enum):
    """Where in a commit a process is killed."""

    BEFORE = "before"
    AFTER = "after"


class MortalStore(MemoryStore):
    """Asks its fate before each commit; a fate that raises is a database that fails there."""

    def __init__(self) -> None:
        super().__init__()
        self.fate: Callable[[MemoryTransaction], Moment | None] = lambda _: None
        self.commits = 0

    @contextmanager
    def begin(self, *, write: bool = True, durable: bool = True) -> Iterator[MemoryTransaction]:
        killed = None
        with super().begin(write=write, durable=durable) as tx:
            yield tx
            if write:
                self.commits += 1
                killed = self.fate(tx)
                if killed is Moment.BEFORE:
                    raise KilledError
        if killed is Moment.AFTER:
            raise KilledError
