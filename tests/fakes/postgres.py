"""A real PostgreSQL server for one session of tests, started as an ordinary user, since it refuses root."""

from __future__ import annotations

import contextlib
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from functools import cached_property
from itertools import count
from pathlib import Path

import psycopg

from fumehood.store.migrate import upgrade

PROGRAMS = "/usr/lib/postgresql"
PATIENCE_S = 30.0
QUICK = ("fsync=off", "synchronous_commit=off", "full_page_writes=off", "autovacuum=off", "max_connections=60")
"""What is here is thrown away in the end; the language's order is set unlike SQLite's, so that it would be noticed."""
LANGUAGE = ("--encoding=UTF8", "--locale=C.UTF-8", "--locale-provider=icu", "--icu-locale=en-US")


class PostgresServer:
    """One server on a loopback port and a socket, with as many databases as are asked for."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._folder = Path(tempfile.mkdtemp(prefix="fumehood-postgres-", dir="/tmp"))
        self._password = secrets.token_hex(16)
        self._numbers = count(1)
        self._process: subprocess.Popen[bytes] | None = None

    def prepare(self) -> None:
        """Make the folder of an empty server."""
        words = self._folder / "password"
        words.write_text(self._password, encoding="ascii")
        if os.geteuid() == 0:
            user = pwd.getpwnam(self._user or "")
            for place in (self._folder, words):
                os.chown(place, user.pw_uid, user.pw_gid)
        make = [self._program("initdb"), "--no-sync", "--auth=scram-sha-256", f"--pwfile={words}", *LANGUAGE]
        made = subprocess.run(
            [*make, "--username=tests", f"--pgdata={self._folder / 'data'}"],
            **self._as_user,
            capture_output=True,
            text=True,
            cwd=self._folder,
        )
        assert made.returncode == 0, made.stdout + made.stderr

    def start(self) -> None:
        """Start the server and wait until it answers."""
        settings = (*QUICK, "listen_addresses=127.0.0.1", f"unix_socket_directories={self._folder}")
        command = [self._program("postgres"), "-D", str(self._folder / "data"), "-p", str(self.port)]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [*command, *(word for one in settings for word in ("-c", one))],
                **self._as_user,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self._folder,
            )
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                self.run("SELECT 1")
            except psycopg.OperationalError:
                assert self._process.poll() is None, self.log()
                assert time.monotonic() < deadline, self.log()
                time.sleep(0.02)
            else:
                return

    def stop(self, by: signal.Signals = signal.SIGINT) -> None:
        """Stop the server at once, its clients' connections cut; `SIGQUIT` as a crash would."""
        if self._process is not None:
            self._process.send_signal(by)
            self._process.wait(PATIENCE_S)
            self._process = None

    def remove(self) -> None:
        """Stop the server and remove everything of it."""
        self.stop(signal.SIGQUIT)
        shutil.rmtree(self._folder)

    def log(self) -> str:
        """Return what the server said."""
        return (self._folder / "log").read_text(encoding="utf-8", errors="replace")

    def run(self, *statements: str, database: str = "postgres") -> list[tuple[object, ...]]:
        """Run statements, each in a transaction of its own, and return the last one's rows."""
        with contextlib.closing(psycopg.connect(self._address(database), autocommit=True)) as connection:
            for statement in statements:
                found = connection.execute(statement.encode())
            return found.fetchall() if found.description else []

    def url(self, database: str) -> str:
        """Return a database's address as the platform's settings have it."""
        return f"postgresql+psycopg://tests:{self._password}@127.0.0.1:{self.port}/{database}"

    def empty(self) -> str:
        """Return the address of a new database without tables."""
        return self.url(self._create("template0"))

    def migrated(self) -> str:
        """Return the address of a new database with every table."""
        return self.url(self._create(self._model))

    @cached_property
    def _model(self) -> str:
        name = self._create("template0")
        upgrade(self.url(name))
        return name

    def _create(self, template: str) -> str:
        name = f"test_{next(self._numbers)}"
        self.run(f"CREATE DATABASE {name} TEMPLATE {template}")
        return name

    def _address(self, database: str) -> str:
        return f"postgresql://tests:{self._password}@127.0.0.1:{self.port}/{database}?connect_timeout=5"

    @cached_property
    def _user(self) -> str | None:
        if os.geteuid() != 0:
            return None
        names = {entry.pw_name for entry in pwd.getpwall()}
        return "postgres" if "postgres" in names else "nobody"

    @property
    def _as_user(self) -> dict[str, object]:
        if self._user is None:
            return {}
        return {"user": self._user, "group": pwd.getpwnam(self._user).pw_gid, "extra_groups": []}

    @staticmethod
    def _program(name: str) -> str:
        found = sorted(Path(PROGRAMS).glob(f"*/bin/{name}"), key=lambda path: int(path.parts[-3]))
        place = str(found[-1]) if found else shutil.which(name)
        assert place, f"no {name} here; `make test` installs it (package postgresql)"
        return place


@contextlib.contextmanager
def postgres_server(port: int) -> Iterator[PostgresServer]:
    """Start a server and have nothing of it left in the end."""
    server = PostgresServer(port)
    try:
        server.prepare()
        server.start()
        yield server
    finally:
        server.remove()
