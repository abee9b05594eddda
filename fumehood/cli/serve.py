"""`fumehood serve`: api, gateway, workers and watcher of one state folder, kept alive until told to stop."""

from __future__ import annotations

import ipaddress
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

import httpx

from fumehood.cli import checks, output
from fumehood.cli.children import Children, Part, check_machine, gateway, halt, workers
from fumehood.cli.options import INTERRUPTED
from fumehood.cli.output import Progress
from fumehood.domain.tenant import PLATFORM
from fumehood.errors import BadInputError, ConflictError, MachineUnfitError, WorkFailedError
from fumehood.services import keys, screening
from fumehood.settings import Settings
from fumehood.store.clock import SystemClock
from fumehood.store.sql import SqlStore
from worker import worlds

CHECK_EVERY_S = 0.2
READY_S = 60.0
ANSWER_S = 1.0
BACKLOG = 256


def serve(settings: Settings, host: str, port: int, sandbox: str, progress: Progress, *, as_json: bool) -> NoReturn:
    """Serve until told to stop, and leave nothing running.

    Raises the errors of `fumehood.errors` as long as it does not serve. From then on standard output has had its one
    document, so every end is a `SystemExit`: 0 by SIGTERM, 130 by Ctrl-C, 1 when a process dies over and over.
    """
    # Its processes read both too; what they would refuse is said here, once.
    policy, models = screening.load(settings.policy), checks.table(settings)
    if policy.judge:
        models.of(policy.judge.model)
    worlds.prepare_state(settings)
    with _ending_once(), worlds.only_one(settings.state_dir / "serve.lock") as mine:
        if not mine:
            raise ConflictError(
                f"Another `fumehood serve` works in {settings.state_dir}: use that one, or set FUMEHOOD_STATE_DIR."
            )
        with _listening(host, port) as listener:
            progress.start("checking the sandbox and LaTeX")
            try:
                told = check_machine(settings, sandbox, progress.say)
                progress.say(str(told["text"]))
                worlds.build_installed_labs(settings, progress.say)
            finally:
                progress.stop()
            _serve(settings, listener, str(told["adapter"]), progress, as_json=as_json)


def _serve(settings: Settings, listener: socket.socket, sandbox: str, progress: Progress, *, as_json: bool) -> NoReturn:
    key = _first_key(settings)
    parts = (gateway(), *workers(sandbox), _api(listener))
    try:
        with Children(settings, parts, progress.say) as children:
            url = _url(listener)
            _wait(children, url)
            _tell(url, key, as_json=as_json)
            key = None
            _keep(children, progress)
    finally:
        if key:
            # Nobody was told of it, so the next start makes another.
            _forget(settings, key)
        halt(settings, sandbox)


def _first_key(settings: Settings) -> str | None:
    """Make the admin key at the first start and return it, this once."""
    with _store(settings) as store:
        return keys.first(store, SystemClock())


def _forget(settings: Settings, key: str) -> None:
    with _store(settings) as store:
        if known := keys.authenticate(store, SystemClock(), key):
            keys.revoke(store, SystemClock(), PLATFORM, known.key)


@contextmanager
def _store(settings: Settings) -> Iterator[SqlStore]:
    store = SqlStore(settings.resolved_database_url)
    try:
        yield store
    finally:
        store.close()


def _api(listener: socket.socket) -> Part:
    file = listener.fileno()
    return Part(name="api", module="api", words=("--embedded", "--listener", str(file)), files=(file,))


def _wait(children: Children, url: str) -> None:
    """Return when the api answers."""
    deadline = time.monotonic() + READY_S
    while not _answers(url):
        _check(children)
        if time.monotonic() > deadline:
            raise MachineUnfitError(f"The api does not answer at {url}.", remedy="Its log is logs/api.log.")
        time.sleep(CHECK_EVERY_S)


def _answers(url: str) -> bool:
    try:
        # It is on this machine: a proxy set for the outside is not asked.
        return httpx.get(f"{url}/healthz", timeout=ANSWER_S, trust_env=False).is_success
    except httpx.HTTPError:
        return False


def _tell(url: str, key: str | None, *, as_json: bool) -> None:
    if as_json:
        output.print_json({"url": url} | ({"admin_key": key} if key else {}))
    else:
        output.print_lines([f"Fumehood serves at {url}; how to ask it is at {url}/docs."])
        if key:
            output.print_lines(
                [f"admin key, shown this once: {key}", f"export FUMEHOOD_URL={url} FUMEHOOD_API_KEY=..."]
            )
    sys.stdout.flush()


def _keep(children: Children, progress: Progress) -> NoReturn:
    """Keep the processes alive until a signal comes, or one of them is given up."""
    try:
        while True:
            _check(children)
            time.sleep(CHECK_EVERY_S)
    except WorkFailedError as error:
        output.print_lines([f"fumehood: {error}"], error=True)
        raise SystemExit(error.exit_status) from error
    except KeyboardInterrupt:
        progress.say("interrupted: stopping what runs; the next start goes on from here")
        raise SystemExit(INTERRUPTED) from None


def _check(children: Children) -> None:
    try:
        children.check()
    except MachineUnfitError as error:
        raise WorkFailedError(str(error)) from error


@contextmanager
def _ending_once() -> Iterator[None]:
    """Let the first SIGINT or SIGTERM end the block; what stops the rest then outlives a second one."""

    def end(number: int, _: FrameType | None) -> NoReturn:
        for one in before:
            signal.signal(one, signal.SIG_IGN)
        if number == signal.SIGTERM:
            raise SystemExit(0)
        raise KeyboardInterrupt

    before = {one: signal.signal(one, end) for one in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


@contextmanager
def _listening(host: str, port: int) -> Iterator[socket.socket]:
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.create_server(address[:2], family=family, backlog=BACKLOG)
    except socket.gaierror as error:
        raise BadInputError(f"--host {host} is not an address of this machine.") from error
    except OSError as error:
        # Python's own words name the place a second time.
        why = os.strerror(error.errno) if error.errno else str(error)
        raise MachineUnfitError(
            f"{host}:{port} cannot be listened on: {why}.", remedy="Give another --port."
        ) from error
    with listener:
        # Taken over by each connection, so that no answer waits for the other side's acknowledgement.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield listener


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    address = ipaddress.ip_address(host)
    if address.is_unspecified:
        # Every address of this machine; the nearest is told.
        address = ipaddress.ip_address("127.0.0.1" if address.version == 4 else "::1")
    return f"http://[{address}]:{port}" if address.version == 6 else f"http://{address}:{port}"
