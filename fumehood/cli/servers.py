"""Servers lent for as long as a measurement or a test takes: PostgreSQL and Redis, on ports that were free.

Nothing of them is left afterwards. PostgreSQL is started as an ordinary user, since it refuses root.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import Any

from fumehood.errors import MachineUnfitError

POSTGRESQL = "/usr/lib/postgresql"
PATIENCE_S = 30.0
LANGUAGE = ("--encoding=UTF8", "--locale=C.UTF-8", "--locale-provider=icu", "--icu-locale=en-US")
"""An order of words unlike SQLite's, so that relying on one would be noticed."""


_given: set[int] = set()
"""Ports that this process has been told of, whose servers may not listen yet."""


def lasting_port() -> int:
    """Return a port that nobody listens on, for a server that may be away: no connection that goes out is given it."""
    draw = secrets.SystemRandom()
    first_given = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text(encoding="ascii").split()[0])
    while True:
        port = draw.randrange(max(1024, first_given - 15_000), first_given)
        if port in _given:
            continue
        with contextlib.suppress(OSError), socket.socket() as listening:
            listening.bind(("127.0.0.1", port))
            _given.add(port)
            return port


class PostgresServer:
    """One server on a loopback port and a socket, with as many databases as are asked for.

    It keeps every promise of durability unless `settings`, as `name=value`, say otherwise.
    """

    def __init__(self, port: int, settings: Sequence[str] = ()) -> None:
        self.port = port
        self._settings = settings
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
        make = [_program("initdb"), "--no-sync", "--auth=scram-sha-256", f"--pwfile={words}", *LANGUAGE]
        made = subprocess.run(
            [*make, "--username=tests", f"--pgdata={self._folder / 'data'}"],
            **self._as_user,
            capture_output=True,
            text=True,
            cwd=self._folder,
        )
        if made.returncode:
            raise MachineUnfitError(f"PostgreSQL cannot be set up: {(made.stderr or made.stdout).strip()[-2000:]}")

    def start(self) -> None:
        """Start the server and wait until it answers."""
        settings = (*self._settings, "listen_addresses=127.0.0.1", f"unix_socket_directories={self._folder}")
        command = [_program("postgres"), "-D", str(self._folder / "data"), "-p", str(self.port)]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [*command, *(word for one in settings for word in ("-c", one))],
                **self._as_user,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self._folder,
            )
        _until_it_answers(self._process, self._answers, self.log)

    @property
    def is_alive(self) -> bool:
        """Whether its process runs."""
        return self._process is not None and self._process.poll() is None

    def stop(self, by: signal.Signals = signal.SIGINT) -> None:
        """Stop the server at once, its clients' connections cut; `SIGQUIT` as a crash would."""
        if self._process is not None:
            self._process.send_signal(by)
            self._process.wait(PATIENCE_S)
            self._process = None

    def kill(self) -> None:
        """End it as a power cut would, and wait until none of its processes holds its memory any more."""
        if self._process is not None:
            helpers = _children(self._process.pid)
            self._process.kill()
            self._process.wait()
            self._process = None
            deadline = time.monotonic() + PATIENCE_S
            # They see for themselves that the first of them is gone; a server started sooner would refuse.
            while any(Path(f"/proc/{pid}").exists() for pid in helpers) and time.monotonic() < deadline:
                time.sleep(0.02)

    def remove(self) -> None:
        """Stop the server and remove everything of it."""
        self.stop(signal.SIGQUIT)
        shutil.rmtree(self._folder)

    def log(self) -> str:
        """Return what the server said."""
        return (self._folder / "log").read_text(encoding="utf-8", errors="replace")

    def run(self, *statements: str, database: str = "postgres") -> list[tuple[object, ...]]:
        """Run statements, each in a transaction of its own, and return the last one's rows."""
        import psycopg

        with contextlib.closing(psycopg.connect(self._address(database), autocommit=True)) as connection:
            for statement in statements:
                found = connection.execute(statement.encode())
            return found.fetchall() if found.description else []

    def url(self, database: str) -> str:
        """Return a database's address as the platform's settings have it."""
        return f"postgresql+psycopg://tests:{self._password}@127.0.0.1:{self.port}/{database}"

    def empty(self) -> str:
        """Return the address of a new database without tables."""
        return self.url(self.create("template0"))

    def create(self, template: str) -> str:
        """Make a database like another one, and return its name."""
        name = f"test_{next(self._numbers)}"
        self.run(f"CREATE DATABASE {name} TEMPLATE {template}")
        return name

    def _answers(self) -> bool:
        import psycopg

        try:
            self.run("SELECT 1")
        except psycopg.OperationalError:
            return False
        return True

    def _address(self, database: str) -> str:
        return f"postgresql://tests:{self._password}@127.0.0.1:{self.port}/{database}?connect_timeout=5"

    @cached_property
    def _user(self) -> str | None:
        if os.geteuid() != 0:
            return None
        names = {entry.pw_name for entry in pwd.getpwall()}
        return "postgres" if "postgres" in names else "nobody"

    @property
    def _as_user(self) -> dict[str, Any]:
        if self._user is None:
            return {}
        return {"user": self._user, "group": pwd.getpwnam(self._user).pw_gid, "extra_groups": []}


@contextlib.contextmanager
def postgres_server(port: int, settings: Sequence[str] = ()) -> Iterator[PostgresServer]:
    """Lend a server and have nothing of it left in the end."""
    server = PostgresServer(port, settings)
    try:
        server.prepare()
        server.start()
        yield server
    finally:
        server.remove()


class RedisServer:
    """One server that keeps nothing on disk."""

    def __init__(self, port: int, log: Path) -> None:
        self.port = port
        self.url = f"redis://127.0.0.1:{port}/0"
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it answers."""
        program = shutil.which("redis-server")
        if program is None:
            raise _missing("redis-server", "redis-server")
        words = ["--bind", "127.0.0.1", "--port", str(self.port), "--save", "", "--appendonly", "no"]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen([program, *words], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        _until_it_answers(self._process, self._answers, lambda: self._log.read_text(errors="replace"))

    @property
    def is_alive(self) -> bool:
        """Whether its process runs."""
        return self._process is not None and self._process.poll() is None

    def stop(self, by: signal.Signals = signal.SIGTERM) -> None:
        """Stop it, and wait until it is gone."""
        if self._process is not None:
            self._process.send_signal(by)
            self._process.wait(PATIENCE_S)
            self._process = None

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as asking:
                asking.sendall(b"PING\r\n")
                return asking.recv(16).startswith(b"+PONG")
        except OSError:
            return False


@contextlib.contextmanager
def redis_server(port: int, log: Path) -> Iterator[RedisServer]:
    """Lend a server that is stopped in the end."""
    server = RedisServer(port, log)
    server.start()
    try:
        yield server
    finally:
        server.stop()


def _until_it_answers(process: subprocess.Popen[bytes], answers: Any, log: Any) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not answers():
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            process.wait()
            raise MachineUnfitError(f"{Path(str(process.args[0])).name} does not start: {log()[-2000:]}")  # type: ignore[index]
        time.sleep(0.02)


def _children(pid: int) -> list[int]:
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (entry / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[1] == str(pid):
                found.append(int(entry.name))
    return found


def _program(name: str) -> str:
    found = sorted(Path(POSTGRESQL).glob(f"*/bin/{name}"), key=lambda path: int(path.parts[-3]))
    place = str(found[-1]) if found else shutil.which(name)
    if not place:
        raise _missing(name, "postgresql")
    return place


def _missing(program: str, package: str) -> MachineUnfitError:
    return MachineUnfitError(
        f"There is no {program} on this machine.",
        remedy=f"Install it: apt-get install -y --no-install-recommends {package}",
    )
