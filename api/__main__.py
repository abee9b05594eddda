"""Serves the API: `FUMEHOOD_API_KEY=... python -m api --host 127.0.0.1 --port 8000`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import uvicorn

from api.app import create_app
from fumehood.artifacts.choose import open_artifacts
from fumehood.artifacts.signing import cursor_secret, public_pem, trusted_keys
from fumehood.errors import FumehoodError, MachineUnfitError
from fumehood.queue.celery import CeleryQueue
from fumehood.queue.celery import create_app as create_celery
from fumehood.settings import Settings
from fumehood.store import migrate
from fumehood.store.clock import SystemClock
from fumehood.store.sql import SqlStore

SHIPPED = Path(__file__).resolve().parents[1] / "templates"
SHORTEST_KEY = 16
LAST_WORDS_S = 5
"""How long requests under way may take once the process is told to stop; a stream never ends by itself."""


def main() -> int:
    """Serve until told to stop."""
    parser = argparse.ArgumentParser(prog="python -m api")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    asked = parser.parse_args()
    settings = Settings()
    if len(settings.api_key) < SHORTEST_KEY:
        sys.stderr.write(f"api: FUMEHOOD_API_KEY must be set to a key of at least {SHORTEST_KEY} characters.\n")
        return 2
    try:
        settings.state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        migrate.upgrade(settings.resolved_database_url)
        given = bytes.fromhex(settings.cursor_secret.get_secret_value())
        cursor_key = given or cursor_secret(settings.state_dir)
        artifacts = open_artifacts(settings)
    except OSError as error:
        sys.stderr.write(f"api: The state folder {settings.state_dir} cannot be used: {error.strerror}.\n")
        return MachineUnfitError.exit_status
    except FumehoodError as error:
        sys.stderr.write(f"api: {error}\n")
        return error.exit_status
    app = create_app(
        SqlStore(settings.resolved_database_url),
        artifacts,
        SystemClock(),
        CeleryQueue(create_celery(settings.redis_url)),
        shipped=SHIPPED,
        api_key=settings.api_key,
        cursor_key=cursor_key,
        public_keys=lambda: {key: public_pem(raw) for key, raw in trusted_keys(settings.state_dir).items()},
    )
    uvicorn.run(app, host=asked.host, port=asked.port, log_level="warning", timeout_graceful_shutdown=LAST_WORDS_S)
    return 0


if __name__ == "__main__":
    sys.exit(main())
