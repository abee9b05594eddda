"""Serves the API: `python -m api --host 127.0.0.1 --port 8000`; the first start prints one admin key."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import uvicorn

from api.app import create_app
from api.rates import Rates
from fumehood.artifacts.choose import open_artifacts
from fumehood.artifacts.signing import cursor_secret, public_pem, trusted_keys
from fumehood.errors import FumehoodError, MachineUnfitError
from fumehood.observe.start import start
from fumehood.queue.celery import CeleryQueue
from fumehood.queue.celery import create_app as create_celery
from fumehood.services import keys
from fumehood.settings import Settings
from fumehood.store import migrate
from fumehood.store.clock import SystemClock
from fumehood.store.sql import SqlStore

SHIPPED = Path(__file__).resolve().parents[1] / "templates"
LAST_WORDS_S = 5
"""How long requests under way may take once the process is told to stop; a stream never ends by itself."""


def main() -> int:
    """Serve until told to stop."""
    parser = argparse.ArgumentParser(prog="python -m api")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    asked = parser.parse_args()
    settings = Settings()
    try:
        start("api", settings)
        settings.state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        migrate.upgrade(settings.resolved_database_url)
        given = bytes.fromhex(settings.cursor_secret.get_secret_value())
        cursor_key = given or cursor_secret(settings.state_dir)
        artifacts = open_artifacts(settings)
        store, clock = SqlStore(settings.resolved_database_url), SystemClock()
        rates = Rates.on_redis(settings.redis_url, settings.reads_per_key, settings.writes_per_key)
        if first := keys.first(store, clock, settings.api_key):
            sys.stderr.write(f"api: the first admin key, shown this once: {first}\n")
    except OSError as error:
        sys.stderr.write(f"api: The state folder {settings.state_dir} cannot be used: {error.strerror}.\n")
        return MachineUnfitError.exit_status
    except FumehoodError as error:
        sys.stderr.write(f"api: {error}\n")
        return error.exit_status
    queue = CeleryQueue(create_celery(settings.redis_url))
    app = create_app(
        store,
        artifacts,
        clock,
        queue,
        shipped=SHIPPED,
        rates=rates,
        cursor_key=cursor_key,
        public_keys=lambda: {key: public_pem(raw) for key, raw in trusted_keys(settings.state_dir).items()},
        needs={"broker": queue.check},
    )
    uvicorn.run(
        app, host=asked.host, port=asked.port, log_config=None, access_log=False, timeout_graceful_shutdown=LAST_WORDS_S
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
