"""The processes that a command starts: gateway, write worker, run worker and watcher, and the api of `fumehood serve`.

Each child's standard input is a pipe from here: when this process is gone, however it went, they end.
"""

from __future__ import annotations

import json
import os
import select
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

from fumehood.cli import handover
from fumehood.domain.ids import DirectionId
from fumehood.errors import MachineUnfitError
from fumehood.settings import Settings
from fumehood.store.engine import holds_password

GATEWAY_START_S = 60.0
METRICS_PORTS = {"gateway": 0, "write": 1, "run": 2, "watch": 3, "api": 4}
"""Each child's place after the port that is set: of several on one machine only one could have that."""
_NOT_HANDED_ON = {
    "api_key", "url", "cursor_secret", "executions_secret", "gateway_secret", "gateway_url", "redis_url",
    "s3_secret_key",
}  # fmt: skip
"""Of other processes than those started here, or told to each child apart."""
PYTHON = (sys.executable, "-P")
"""Without the folder one stands in, where a `worker` or a `sandbox` of somebody else's may lie."""
RESTARTS = 5
"""How often one child is started again, without having lived well in between, before the command gives up."""
LIVED_WELL_S = 60.0
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.2, 5.0
"""Before a child that died is started again; twice as long each time."""


def environment(settings: Settings) -> dict[str, str]:
    """Return the settings that a child needs, as it reads them: where all lies, and whatever was set."""
    given = settings.model_dump(mode="json", exclude_unset=True, exclude=_NOT_HANDED_ON)
    given |= {"state_dir": str(settings.state_dir), "run_dir": str(settings.run_dir)}
    told = {f"FUMEHOOD_{name.upper()}": value for name, value in given.items() if value is not None}
    return {name: value if isinstance(value, str) else json.dumps(value) for name, value in told.items()}


def as_root(command: Sequence[str], settings: Settings) -> list[str]:
    """Return a command run with root's rights: as it is for root, else by `sudo -n`, with the settings handed on."""
    if os.geteuid() == 0:
        return list(command)
    if settings.s3_endpoint:
        # Its secret would stand in the list of processes.
        raise MachineUnfitError(
            "Artifacts in S3 need this command to be started by root, since sudo is not given their secret key.",
            remedy="Start it as root, or leave FUMEHOOD_S3_ENDPOINT out.",
        )
    if holds_password(settings.resolved_database_url):
        # It too would stand there, in sudo's log, and in the line to type.
        raise MachineUnfitError(
            "A database URL with a password needs this command to be started by root, since sudo is not given it.",
            remedy="Start it as root, or have the URL name a file that holds the password (?passfile=PATH).",
        )
    told = [f"{name}={value}" for name, value in environment(settings).items() if value]
    # Bytecode written by root would lie in the user's checkout for good.
    told = ["env", "PYTHONDONTWRITEBYTECODE=1", *told]
    if shutil.which("sudo") is None or subprocess.run(["sudo", "-n", "true"], capture_output=True).returncode != 0:
        line = shlex.join(["sudo", *told, *PYTHON, "-m", "fumehood", *sys.argv[1:]])
        raise MachineUnfitError(
            "Volumes, cgroups and the pool of uids need root, and sudo asks for a password here.",
            remedy=f"Type this instead: {line}",
        )
    return ["sudo", "-n", *told, *command]


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One process that is kept alive."""

    name: str
    module: str
    words: tuple[str, ...] = ()
    files: tuple[int, ...] = ()
    """Open files that it takes over."""
    needs_root: bool = False
    tells_gateway: bool = False
    """Whether it is the gateway, whose first line says where it is."""
    needs_gateway: bool = False
    """Whether it is told where the gateway is, and started again when that changes."""


def gateway(replay: Path | None = None) -> Part:
    """Return the gateway; it is handed the providers' keys that were in the environment, but for a replay."""
    if replay:
        words = ("--port", "0", "--with-parent", "--replay", str(replay))
        return Part(name="gateway", module="fumehood.gateway", words=words, tells_gateway=True)
    keys = handover.handed_file()
    handed = () if keys is None else ("--keys-fd", str(keys))
    return Part(
        name="gateway",
        module="fumehood.gateway",
        words=("--port", "0", "--with-parent", *handed),
        files=() if keys is None else (keys,),
        tells_gateway=True,
    )


def workers(sandbox: str, direction_id: DirectionId | None = None) -> tuple[Part, ...]:
    """Return write worker, run worker and watcher: for one direction, or for all that are no other command's."""
    only = ("--direction", direction_id) if direction_id else ()
    return tuple(
        Part(
            name=side,
            module="worker.local",
            words=("--side", side, "--sandbox", sandbox, *only),
            needs_root=side != "write",
            needs_gateway=True,
        )
        for side in ("write", "run", "watch")
    )


class Children:
    """Starts processes in the order given, keeps them alive, and ends them."""

    def __init__(self, settings: Settings, parts: Iterable[Part], say: Callable[[str], None] = lambda _: None) -> None:
        self._settings = settings
        self._parts = {part.name: part for part in parts}
        self._say = say
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._begun: dict[str, float] = {}
        self._restarts: dict[str, int] = {}
        self._due: dict[str, float] = {}
        """When a child that died is started again."""
        self.gateway_url = ""

    def __enter__(self) -> Self:
        """Start them all."""
        try:
            for name in self._parts:
                self._start(name)
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End them all."""
        self.stop()

    def _start(self, name: str) -> None:
        part = self._parts[name]
        log = self._log(name)
        try:
            child = subprocess.Popen(
                self._command(part),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE if part.tells_gateway else log,
                stderr=log,
                pass_fds=part.files,
                env=_clean(self._settings_of(name)),
            )
        finally:
            os.close(log)
        self._running[name] = child
        self._begun[name] = time.monotonic()
        if part.tells_gateway:
            self._hear_gateway(child)

    def _command(self, part: Part) -> list[str]:
        command = [*PYTHON, "-m", part.module, *part.words]
        if part.tells_gateway and self._restarts.get(part.name) == 1:
            # Where it was, so that nobody need be told; a place that was taken meanwhile is not tried twice.
            command += ["--port", str(urlsplit(self.gateway_url).port)]
        if part.needs_gateway:
            command += ["--gateway", self.gateway_url]
        return as_root(command, self._settings_of(part.name)) if part.needs_root else command

    def _hear_gateway(self, child: subprocess.Popen[bytes]) -> None:
        if child.stdout is None:
            raise MachineUnfitError("The gateway has no output.")
        ready, _, _ = select.select([child.stdout], [], [], GATEWAY_START_S)
        line = child.stdout.readline() if ready else b""
        try:
            self.gateway_url = str(json.loads(line)["url"])
        except (ValueError, KeyError) as error:
            raise MachineUnfitError(
                "The gateway did not start.", remedy=f"Its log is {self._settings.state_dir}/logs/gateway.log."
            ) from error

    def _settings_of(self, name: str) -> Settings:
        if not (port := self._settings.metrics_port):
            return self._settings
        return self._settings.model_copy(update={"metrics_port": port + METRICS_PORTS[name]})

    def _log(self, name: str) -> int:
        folder = self._settings.state_dir / "logs"
        folder.mkdir(parents=True, exist_ok=True)
        return os.open(folder / f"{name}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def check(self) -> None:
        """Start again what died, after a pause; `MachineUnfitError` when one dies over and over."""
        now = time.monotonic()
        for name, child in list(self._running.items()):
            if child.poll() is None:
                continue
            if name not in self._due:
                self._due[name] = now + self._pause(name, child.returncode)
                self._say(f"the {name} process ended (exit status {child.returncode}) and is started again")
            if now >= self._due[name]:
                del self._due[name]
                self._start_again(name)

    def _pause(self, name: str, status: int) -> float:
        """Count a death and return how long to wait after it, or give the child up."""
        if time.monotonic() - self._begun[name] > LIVED_WELL_S:
            self._restarts[name] = 0
        self._restarts[name] = self._restarts.get(name, 0) + 1
        if self._restarts[name] > RESTARTS:
            raise MachineUnfitError(
                f"The {name} process ended {RESTARTS} times (last exit status {status}).",
                remedy=f"Its log is {self._settings.state_dir}/logs/{name}.log.",
            )
        return min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** (self._restarts[name] - 1))

    def _start_again(self, name: str) -> None:
        self._end(name)
        before = self.gateway_url
        try:
            self._start(name)
        except MachineUnfitError as error:
            # A start that comes to nothing is one more death, counted when it is looked for next.
            self._say(str(error))
            self._running[name].kill()
            return
        if self._parts[name].tells_gateway and self.gateway_url != before:
            # Only who is started again learns the new gateway's place.
            for other in [part.name for part in self._parts.values() if part.needs_gateway]:
                self._end(other)
                self._due.pop(other, None)
                self._start(other)

    def stop(self) -> None:
        """Close their standard inputs and wait; whatever stays is killed."""
        for child in self._running.values():
            _hang_up(child)
        for name in list(self._running):
            self._end(name)

    def _end(self, name: str) -> None:
        child = self._running.pop(name)
        _hang_up(child)
        try:
            child.wait(timeout=5)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
        if child.stdout:
            child.stdout.close()


def _hang_up(child: subprocess.Popen[bytes]) -> None:
    if child.stdin:
        child.stdin.close()


def halt(settings: Settings, sandbox: str, direction_id: DirectionId | None = None) -> None:
    """Stop and remove containers, of one direction or of all that are no other command's; none is left running."""
    command = [*PYTHON, "-m", "worker.local", "--side", "halt", "--sandbox", sandbox]
    only = ["--direction", direction_id] if direction_id else []
    command = as_root([*command, *only], settings)
    subprocess.run(command, stdin=subprocess.DEVNULL, env=_clean(settings), timeout=60)


def check_machine(settings: Settings, sandbox: str, say: Callable[[str], None] = lambda _: None) -> dict[str, Any]:
    """Ask, with root's rights, what the sandbox can do here; `MachineUnfitError` names what is missing."""
    told = ask_machine(settings, sandbox, say)
    if told.get("error"):
        raise MachineUnfitError(str(told["error"]))
    return told


def ask_machine(settings: Settings, sandbox: str, say: Callable[[str], None] = lambda _: None) -> dict[str, Any]:
    """Ask the same; what is missing stands in the answer's `error`, beside the promises.

    Images are built on the way where they are missing, which takes minutes: `say` gets each line of that as it comes.
    """
    command = [*PYTHON, "-m", "worker.local", "--side", "check", "--sandbox", sandbox]
    with subprocess.Popen(
        as_root(command, settings),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=_clean(settings),
        text=True,
        errors="replace",
    ) as child:
        last = ""
        for line in child.stderr or ():
            last = line.strip() or last
            say(line.rstrip())
        answer = child.stdout.read() if child.stdout else ""
    try:
        told = json.loads(answer)
    except ValueError as error:
        raise MachineUnfitError(f"The sandbox could not be checked: {last}") from error
    return dict(told)


def _clean(settings: Settings) -> dict[str, str]:
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR") if name in os.environ}  # noqa: TID251 - an allow-list for children
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR", "HTTPS_PROXY", "https_proxy", "NO_PROXY"):
        if name in os.environ:  # noqa: TID251 - the gateway must reach its provider
            kept[name] = os.environ[name]  # noqa: TID251
    if secret := settings.s3_secret_key.get_secret_value():
        kept["FUMEHOOD_S3_SECRET_KEY"] = secret
    return kept | {name: value for name, value in environment(settings).items() if value}
