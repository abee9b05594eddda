"""Starts the gateway: `python -m fumehood.gateway [--port N] [--with-parent]`.

Prints one JSON line, `{"url": ...}`, on standard output when it takes calls.
"""

from __future__ import annotations

import argparse
import dataclasses
import ipaddress
import json
import logging
import shutil
import signal
import socket
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field, SecretStr

from fumehood.errors import FumehoodError
from fumehood.gateway.keys import VARIABLES, checked
from fumehood.settings import FileSettings

if TYPE_CHECKING:
    from fumehood.domain.template import PublicData
    from fumehood.gateway.exchange import Desk
    from fumehood.gateway.fetches import Fetches
    from fumehood.settings import Settings


class ProviderSettings(FileSettings):
    """Provider keys given to this process alone, in its environment or a secret's file; they win over stored ones."""

    anthropic: SecretStr | None = Field(default=None, validation_alias=VARIABLES["anthropic"])
    bedrock: SecretStr | None = Field(default=None, validation_alias=VARIABLES["bedrock"])
    deepseek: SecretStr | None = Field(default=None, validation_alias=VARIABLES["deepseek"])
    openai: SecretStr | None = Field(default=None, validation_alias=VARIABLES["openai"])
    openrouter: SecretStr | None = Field(default=None, validation_alias=VARIABLES["openrouter"])
    vertex: SecretStr | None = Field(default=None, validation_alias=VARIABLES["vertex"])

    def given(self) -> dict[str, str]:
        """Return the keys that are there, by name."""
        values = {name: getattr(self, name) for name in VARIABLES}
        told = {name: value.get_secret_value() for name, value in values.items() if value is not None}
        return {name: checked(VARIABLES[name], text) for name, text in told.items() if text.strip()}


KEPT_S = 75
"""For so long a connection is kept that nobody uses: longer than callers keep theirs, lest it end as they use it."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until told to stop."""
    options = _parser().parse_args(arguments)
    if not options.allow_remote and not _is_loopback(options.host):
        sys.stderr.write(f"{options.host} is not this machine; say --allow-remote to listen there.\n")
        return 2
    with socket.create_server((options.host, options.port), backlog=256) as listener:
        # Taken over by each connection. asyncio would set it only on sockets made with TCP's number, and without it
        # every answer waits 40 ms for the other side's acknowledgement.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        port = listener.getsockname()[1]
        try:
            _serve(options, listener, f"http://{options.host}:{port}")
        except FumehoodError as error:
            sys.stderr.write(f"gateway: {error}\n")
            return error.exit_status
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m fumehood.gateway", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8010, help="0 takes any free one")
    parser.add_argument("--with-parent", action="store_true", help="stop when standard input closes")
    parser.add_argument("--keys-fd", type=int, help="an open file that holds provider keys; they win over all others")
    parser.add_argument("--allow-remote", action="store_true", help="listen on an address that others can reach")
    parser.add_argument("--replay", type=Path, help="answer from the record of this folder, and ask no provider")
    parser.add_argument("--allow-unpriced", action="store_true", help="pass models on whose price is not known")
    return parser


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _serve(options: argparse.Namespace, listener: socket.socket, url: str) -> None:
    import uvicorn

    from fumehood.artifacts.choose import open_artifacts
    from fumehood.gateway import tokens
    from fumehood.gateway.app import create_app
    from fumehood.gateway.exchange import Desk
    from fumehood.gateway.keys import Keys, handed
    from fumehood.gateway.models import Models
    from fumehood.gateway.record import Record
    from fumehood.gateway.upstream import Upstream
    from fumehood.gateway.upstreams.choose import upstreams
    from fumehood.gateway.upstreams.replay import NAME, Replay, models_of
    from fumehood.observe.start import start
    from fumehood.serving import leave_alone_what_stays
    from fumehood.settings import Settings
    from fumehood.store.clock import SystemClock
    from fumehood.store.sql import open_store

    settings = Settings()
    start("gateway", settings)
    keys = Keys(settings.state_dir)
    named = ProviderSettings().given() | ({} if options.keys_fd is None else handed(options.keys_fd))
    models = Models.shipped(settings.models, allow_unknown=options.allow_unpriced or settings.allow_unpriced)
    if settings.anthropic_base_url:
        models.sources["anthropic"] = dataclasses.replace(
            models.sources["anthropic"], base_url=settings.anthropic_base_url
        )
    artifacts = open_artifacts(settings)
    answering: Mapping[str, Upstream] = upstreams(
        models, artifacts, lambda name: named.get(name) or keys.get(name), settings.offline_faults
    )
    if options.replay:
        record = Record.read(options.replay)
        models, answering = models_of(record), {NAME: Replay(record)}
    desk = Desk(
        store=open_store(settings.resolved_database_url),
        artifacts=artifacts,
        clock=SystemClock(),
        secret=tokens.secret_of(settings),
        upstreams=answering,
        models=models,
        keys=lambda: (*named.values(), *keys.values()),
    )
    tokens.leave_for_executions(settings)
    if abandoned := desk.accounts.close_abandoned():
        logging.getLogger("fumehood.gateway").warning("closed %d calls that another gateway had left open", abandoned)
    # What is done again of a record asks nobody outside.
    fetches = None if options.replay else _fetches(settings, desk)
    config = uvicorn.Config(
        create_app(desk, fetches),
        log_config=None,
        access_log=False,
        lifespan="off",
        ws="none",
        proxy_headers=False,
        timeout_keep_alive=KEPT_S,
    )
    server = uvicorn.Server(config)
    if options.with_parent:
        # Ctrl-C comes to all processes of a terminal; when this one stops is its parent's to say.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        threading.Thread(target=_stop_with_parent, args=(server,), daemon=True).start()
    leave_alone_what_stays()
    # The socket already listens, so a call that comes from now on waits until it is taken.
    sys.stdout.write(json.dumps({"url": url}) + "\n")
    sys.stdout.flush()
    server.run(sockets=[listener])


def _fetches(settings: Settings, desk: Desk) -> Fetches:
    from fumehood.artifacts import fetching
    from fumehood.gateway.fetches import Fetches
    from fumehood.services.public_data import FetchedData

    # A folder of its own: what lies there goes when it is among the artifacts, whoever began to get it.
    into = FetchedData(settings.data_dir / "catalogue")

    def download(name: str, source: PublicData) -> Path:
        def free(folder: Path) -> int:
            # Among the artifacts it lies once more before it goes here.
            return shutil.disk_usage(folder).free - source.bytes

        return fetching.fetch(name, source, into, mirror=settings.data_mirror, free=free).path

    return Fetches(desk.store, desk.artifacts, desk.accounts.check, download)


def _stop_with_parent(server: object) -> None:
    while sys.stdin.buffer.read(4096):
        pass
    server.should_exit = True  # type: ignore[attr-defined]


if __name__ == "__main__":
    sys.exit(main())
