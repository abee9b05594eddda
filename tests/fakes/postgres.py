"""A real PostgreSQL server for one session of tests, with databases that have every table."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import cached_property

from fumehood.cli import servers
from fumehood.store.migrate import upgrade

QUICK = ("fsync=off", "synchronous_commit=off", "full_page_writes=off", "autovacuum=off", "max_connections=60")
"""What is here is thrown away in the end."""


class PostgresServer(servers.PostgresServer):
    """A server whose databases may be copies of a migrated one."""

    def migrated(self) -> str:
        """Return the address of a new database with every table."""
        return self.url(self.create(self._model))

    @cached_property
    def _model(self) -> str:
        name = self.create("template0")
        upgrade(self.url(name))
        return name


@contextlib.contextmanager
def postgres_server(port: int) -> Iterator[PostgresServer]:
    """Start a server and have nothing of it left in the end."""
    server = PostgresServer(port, QUICK)
    try:
        server.prepare()
        server.start()
        yield server
    finally:
        server.remove()
