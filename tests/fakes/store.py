"""A store whose process may be killed at a commit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum

from fumehood.store.memory import MemoryStore, MemoryTransaction


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
