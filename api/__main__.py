"""Serves the API: `python -m api --host 127.0.0.1 --port 8000`; the first start prints one admin key.

With `--embedded`, as `fumehood serve` starts it, it needs no Redis and ends when its standard input closes.
"""

from __future__ import annotations

import argparse
import signal
import socket
import sys
import threading
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI

from api.app import create_app
from api.rates import Rates
from fumehood.artifacts.choose import open_artifacts
from fumehood.artifacts.signing import cursor_secret, public_pem, trusted_keys
from fumehood.errors import FumehoodError, MachineUnfitError
from fumehood.gateway.models import Models
from fumehood.observe.start import start
from fumehood.queue.celery import CeleryQueue
from fumehood.queue.celery import create_app as create_celery
from fumehood.queue.local import CommitQueue
from fumehood.services import keys, screening
from fumehood.services.known_templates import KnownTemplates
from fumehood.services.public_data import FetchedData
from fumehood.serving import leave_alone_what_stays
from fumehood.settings import Settings
from fumehood.store import migrate
from fumehood.store.clock import SystemClock
from fumehood.store.sql import SqlStore

SHIPPED = Path(__file__).resolve().parents[1] / "templates"
LAST_WORDS_S = 5
"""How long requests under way may take once the process is told to stop; a stream never ends by itself."""
EMBEDDED_LAST_WORDS_S = 2
QUIET: Any = {"log_config": None, "access_log": False, "proxy_headers": False}
"""Requests are logged with their ids by our own."""


def main() -> int:
    """Serve until told to stop."""
    asked = _parser().parse_args()
    settings = Settings()
    try:
        start("api", settings)
        policy = screening.load(settings.policy)
        models = Models.shipped(settings.models, allow_unknown=settings.allow_unpriced)
        if policy.judge:
            models.of(policy.judge.model)
        settings.state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        migrate.upgrade(settings.resolved_database_url)
        given = bytes.fromhex(settings.cursor_secret.get_secret_value())
        cursor_key = given or cursor_secret(settings.state_dir)
        artifacts = open_artifacts(settings)
        store, clock = SqlStore(settings.resolved_database_url), SystemClock()
        given_rates = settings.reads_per_key, settings.writes_per_key
        rates = Rates.alone(*given_rates) if asked.embedded else Rates.on_redis(settings.redis_url, *given_rates)
        if first := keys.first(store, clock, settings.api_key):
            sys.stderr.write(f"api: the first admin key, shown this once: {first}\n")
    except OSError as error:
        sys.stderr.write(f"api: The state folder {settings.state_dir} cannot be used: {error.strerror}.\n")
        return MachineUnfitError.exit_status
    except FumehoodError as error:
        sys.stderr.write(f"api: {error}\n")
        return error.exit_status
    queue = CommitQueue() if asked.embedded else CeleryQueue(create_celery(settings.redis_url))
    app = create_app(
        store,
        artifacts,
        clock,
        queue,
        shipped=settings.templates_dir or SHIPPED,
        rates=rates,
        cursor_key=cursor_key,
        policy=policy,
        models=models,
        known_templates=KnownTemplates(fetched=FetchedData(settings.data_dir)),
        public_keys=lambda: {key: public_pem(raw) for key, raw in trusted_keys(settings.state_dir).items()},
        needs={"broker": queue.check} if isinstance(queue, CeleryQueue) else {},
    )
    leave_alone_what_stays()
    if asked.embedded:
        _serve_embedded(app, asked.listener)
    else:
        uvicorn.run(app, host=asked.host, port=asked.port, timeout_graceful_shutdown=LAST_WORDS_S, **QUIET)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m api")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--embedded", action="store_true", help="no Redis; stop when standard input closes")
    parser.add_argument("--listener", type=int, help="with --embedded: the open file that is the listening socket")
    return parser


def _serve_embedded(app: FastAPI, listener: int) -> None:
    """Serve on a socket that is its parent's, where calls wait while this process is started again."""
    # Ctrl-C comes to all processes of a terminal; when this one stops is its parent's to say.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    config = uvicorn.Config(app, timeout_graceful_shutdown=EMBEDDED_LAST_WORDS_S, **QUIET)
    server = uvicorn.Server(config)
    threading.Thread(target=_stop_with_parent, args=(server,), daemon=True).start()
    with socket.socket(fileno=listener) as listening:
        server.run(sockets=[listening])


def _stop_with_parent(server: uvicorn.Server) -> None:
    while sys.stdin.buffer.read(4096):
        pass
    server.should_exit = True


if __name__ == "__main__":
    sys.exit(main())
