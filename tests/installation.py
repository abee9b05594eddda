"""A whole installation in processes of its own, each killed and started again by its name: the stack but for Compose.

PostgreSQL, Redis and an S3 service are real ones. The platform's processes are those that the images start; only the
api's templates are another folder's, so that a direction takes seconds.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import httpx

from fumehood.cli.servers import PostgresServer, RedisServer, lasting_port
from fumehood.domain.step import Side
from fumehood.errors import FumehoodError, MachineUnfitError
from fumehood.settings import Settings
from fumehood.store.sql import SqlStore
from tests.fakes.quick import NAME, write_quick_template
from tests.object_stores import ACCESS_KEY, SECRET_KEY, ObjectStore

KEY = "a key for the installation"
SERVERS = ("postgres", "s3", "redis")
OURS = ("gateway", "api", Side.WRITE.value, Side.RUN.value, "watch")
ASKED = {"template": NAME, "profile": "tiny", "model": "offline", "ideas": 1, "runs": 1, "novelty": False}
STOPS_WITHIN_S = 30.0
PAUSE_S = 0.3
"""Before a process that died is started again."""
DURABLE = ("synchronous_commit=on", "fsync=off", "full_page_writes=off", "max_connections=100")
"""What was committed outlives the server's processes, all of which may be killed; the machine itself stays up."""
API = """
import sys
from pathlib import Path
from api import __main__ as api

api.SHIPPED = Path(sys.argv.pop(1))
sys.exit(api.main())
"""


class Installation:
    """Its processes by name, and what a caller and the database tell of it."""

    def __init__(
        self, folder: Path, lab: Path, *, s3: str = "juicefs", settings: Mapping[str, str] | None = None
    ) -> None:
        self.folder, self.state = folder, folder / "state"
        self._lab, self._given = lab, dict(settings or {})
        for place in ("state", "logs"):
            (folder / place).mkdir(parents=True)
        write_quick_template(folder / "templates")
        self.postgres = PostgresServer(lasting_port(), DURABLE)
        self.redis = RedisServer(lasting_port(), folder / "logs/redis.log")
        self.s3 = ObjectStore(s3, folder / "s3")
        self._ports = {"gateway": lasting_port(), "api": lasting_port()}
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._due: dict[str, float] = {}
        self._wanted: set[str] = set()
        self.client = httpx.Client(
            base_url=f"http://127.0.0.1:{self._ports['api']}", headers={"Authorization": f"Bearer {KEY}"}, timeout=10
        )

    @cached_property
    def database_url(self) -> str:
        """Where the database is, which is made when it is first asked for."""
        return self.postgres.empty()

    @cached_property
    def store(self) -> SqlStore:
        """The database, whose tables the processes make."""
        return SqlStore(self.database_url)

    def begin(self) -> None:
        """Start everything, and wait until the work can be done."""
        self.postgres.prepare()
        self.start(*SERVERS)
        self.s3.artifacts(self.folder / "cache", bucket="fumehood")
        self.start(*OURS)
        self.until(self.is_ready, 90, "the work can be done")

    def start(self, *names: str) -> None:
        """Start some of it by their names."""
        for name in names:
            if name in SERVERS:
                getattr(self, name).start()
            else:
                with (self.folder / f"logs/{name}.log").open("ab") as log:
                    self._running[name] = subprocess.Popen(
                        self._command(name), env=self._environment(), stdin=subprocess.PIPE, stdout=log, stderr=log
                    )
            self._wanted.add(name)
            self._due.pop(name, None)

    def kill(self, name: str) -> None:
        """End one as a power cut would."""
        if name == "redis":
            self.redis.stop(signal.SIGKILL)
        elif name in SERVERS:
            getattr(self, name).kill()
        else:
            self._running[name].kill()
            self._running[name].wait()

    def stop(self, *names: str) -> None:
        """Stop some of it as its owner would: they may end what they have in hand."""
        for name in names:
            self._wanted.discard(name)
            if name in SERVERS:
                server = getattr(self, name)
                (server.kill if name == "s3" else server.stop)()
                continue
            process = self._running.pop(name)
            process.terminate()
            with process:
                process.wait(STOPS_WITHIN_S)

    def tend(self) -> list[str]:
        """Start again what died a moment ago, as whoever keeps a service does; their names."""
        now, started = time.monotonic(), []
        for name in sorted(self._wanted):
            if not self.is_alive(name) and now >= self._due.setdefault(name, now + PAUSE_S):
                if name in OURS:
                    self._running.pop(name).stdin.close()  # type: ignore[union-attr]
                self.start(name)
                started.append(name)
        return started

    def is_alive(self, name: str) -> bool:
        """Whether the process of that name runs."""
        if name in SERVERS:
            return bool(getattr(self, name).is_alive)
        return self._running[name].poll() is None

    def end(self) -> None:
        """Stop everything; nothing of it is left but its folder."""
        self.client.close()
        self._wanted.clear()
        for process in self._running.values():
            with process:
                process.kill()
        if "store" in self.__dict__:
            self.store.close()
        self.redis.stop(signal.SIGKILL)
        self.s3.kill()
        self.postgres.remove()

    def log(self, name: str) -> str:
        """Return what a process said."""
        return (self.folder / f"logs/{name}.log").read_text(encoding="utf-8", errors="replace")

    def post(self) -> httpx.Response:
        """Submit a direction."""
        return self.client.post("/v1/directions", json=ASKED)

    def submit(self, patience_s: float = 30.0, key: str = "", seed: int = 0) -> str:
        """Submit a direction as a careful client does: again, with the same key, until it is accepted."""
        deadline = time.monotonic() + patience_s
        headers = {"Idempotency-Key": key} if key else {}
        while True:
            try:
                answer = self.client.post("/v1/directions", json=ASKED | {"seed": seed}, headers=headers)
                if answer.status_code == 202:
                    return str(answer.json()["id"])
                told = answer.text
                assert answer.status_code == 503, told
            except httpx.TransportError as error:
                told = repr(error)
            assert time.monotonic() < deadline, told
            self.tend()
            time.sleep(0.2)

    def read(self, direction: str) -> dict[str, Any]:
        """Return a direction as the api tells it; nothing while it cannot."""
        try:
            answer = self.client.get(f"/v1/directions/{direction}")
        except httpx.TransportError:
            return {}
        found: dict[str, Any] = answer.json() if answer.status_code == 200 else {}
        return found

    def is_over(self, direction: str) -> bool:
        """Whether a direction has ended, however."""
        return self.read(direction).get("state") in {"done", "failed", "cancelled"}

    def is_ready(self) -> bool:
        """Whether all that the work needs is there."""
        try:
            return self.client.get("/readyz").status_code == 200
        except httpx.TransportError:
            return False

    def until(self, holds: Callable[[], object], within_s: float, what: str, *, tending: bool = False) -> float:
        """Wait until something holds and return how long that took; else tell what the processes said."""
        began = time.monotonic()
        while not self._holds(holds):
            if tending:
                self.tend()
            if time.monotonic() - began > within_s:
                told = "\n".join(f"{name}:\n{self.log(name)[-2500:]}" for name in OURS)
                raise AssertionError(f"{what}: not within {within_s:.0f} s\n{told}")
            time.sleep(0.05)
        return time.monotonic() - began

    @staticmethod
    def _holds(holds: Callable[[], object]) -> bool:
        try:
            return bool(holds())
        except (FumehoodError, MachineUnfitError):
            # The database may be the one that is away.
            return False

    def _command(self, name: str) -> list[str]:
        port, module = str(self._ports.get(name)), [sys.executable, "-m"]
        gateway = f"http://127.0.0.1:{self._ports['gateway']}"
        return {
            "gateway": [*module, "fumehood.gateway", "--port", port, "--with-parent"],
            "api": [sys.executable, "-c", API, str(self.folder / "templates"), "--port", port],
            "write": [*module, "worker", "--side", "write", "--gateway", gateway],
            "run": [*module, "worker", "--side", "run", "--sandbox", "local"],
            "watch": [*module, "worker", "--side", "watch", "--sandbox", "local"],
        }[name]

    def _environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("FUMEHOOD_")}  # noqa: TID251 - a program inherits what a person has
        return {
            **kept,
            "FUMEHOOD_STATE_DIR": str(self.state),
            "FUMEHOOD_LAB_DIR": str(self._lab),
            "FUMEHOOD_API_KEY": KEY,
            "FUMEHOOD_DATABASE_URL": self.database_url,
            "FUMEHOOD_REDIS_URL": self.redis.url,
            "FUMEHOOD_S3_ENDPOINT": f"127.0.0.1:{self.s3.port}",
            "FUMEHOOD_S3_BUCKET": "fumehood",
            "FUMEHOOD_S3_ACCESS_KEY": ACCESS_KEY,
            "FUMEHOOD_S3_SECRET_KEY": SECRET_KEY,
            "FUMEHOOD_S3_SECURE": "false",
            "FUMEHOOD_READS_PER_KEY": "100000/minute",
            "FUMEHOOD_WRITES_PER_KEY": "100000/minute",
            # Our own coder: edits of one line need no second environment.
            "FUMEHOOD_CODER_PYTHON": str(self.folder / "no-coder"),
            **self._given,
        }


def lab_of(settings: Settings) -> Path:
    """Return the lab that `make setup` built."""
    return (settings.lab_dir or settings.state_dir / "lab/current").resolve()
