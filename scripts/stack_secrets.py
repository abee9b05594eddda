"""The secrets of the stack: made where they are missing, each a file for the one user who reads it.

`python3 -B scripts/stack_secrets.py FOLDER` makes them for Kubernetes: there, all files are yours.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

OURS = 10001
"""Whom the platform's own services, Redis and the S3 service run as; see images/platform.Dockerfile."""
POSTGRES = 999
"""Whom the image of PostgreSQL runs as."""
ACCESS_KEY = "fumehood"
ACTIONS = ("Admin", "Read", "Write", "List", "Tagging")


@dataclass(frozen=True)
class Secret:
    """A file of the folder of secrets."""

    make: Callable[[Path], str]
    reader: int = OURS
    source: str = ""
    """The secret that it is made from, and with."""


def _random(_: Path) -> str:
    return secrets.token_hex(32)


def _api_key(_: Path) -> str:
    return f"fh_{secrets.token_urlsafe(32)}"


def _database_url(folder: Path) -> str:
    return f"postgresql+psycopg://fumehood:{_of(folder, 'postgres_password')}@postgres:5432/fumehood"


def _redis_url(folder: Path) -> str:
    password = _of(folder, "redis_conf").split('requirepass "')[1].partition('"')[0]
    return f"redis://:{password}@redis:6379/0"


def _redis_conf(_: Path) -> str:
    told = [f'requirepass "{secrets.token_hex(32)}"', "bind * -::*", 'save ""', "appendonly no", "dir /tmp"]
    # Hints that nobody takes must not fill the memory: those that come then are refused, and found in the database.
    return "\n".join([*told, "maxmemory 128mb", "maxmemory-policy noeviction", ""])


def _s3_config(folder: Path) -> str:
    key = {"accessKey": ACCESS_KEY, "secretKey": _of(folder, "fumehood_s3_secret_key")}
    return json.dumps({"identities": [{"name": ACCESS_KEY, "credentials": [key], "actions": list(ACTIONS)}]})


def _executions_secret(folder: Path) -> str:
    """Return what the run side signs executions' tokens with: derived, so that it makes no others."""
    secret = bytes.fromhex(_of(folder, "fumehood_gateway_secret"))
    return hmac.new(secret, b"executions", hashlib.sha256).hexdigest()


def _nothing(_: Path) -> str:
    return ""


SECRETS = {
    "postgres_password": Secret(_random, POSTGRES),
    "redis_conf": Secret(_redis_conf),
    "fumehood_s3_secret_key": Secret(_random),
    "s3_config": Secret(_s3_config, source="fumehood_s3_secret_key"),
    "fumehood_database_url": Secret(_database_url, source="postgres_password"),
    "fumehood_redis_url": Secret(_redis_url, source="redis_conf"),
    "fumehood_gateway_secret": Secret(_random),
    "fumehood_executions_secret": Secret(_executions_secret, source="fumehood_gateway_secret"),
    "fumehood_cursor_secret": Secret(_random),
    # The one key that the API asks for.
    "fumehood_api_key": Secret(_api_key),
    # Empty means none of that provider's models; all of them empty, the offline model only.
    "anthropic_api_key": Secret(_nothing),
    "aws_bearer_token_bedrock": Secret(_nothing),
    "deepseek_api_key": Secret(_nothing),
    "google_credentials": Secret(_nothing),
    "openai_api_key": Secret(_nothing),
    "openrouter_api_key": Secret(_nothing),
}
"""In the order in which they are made: what is derived stands after what it is made from."""


def ensure(folder: Path, *, hand_over: bool = True) -> list[str]:
    """Make what is missing and hand each file to its reader; what is there stays. The names of those made."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    made = []
    for name, secret in SECRETS.items():
        path = folder / name
        if not path.exists() or secret.source in made:
            # It has its mode and its reader before it has its name.
            fresh = folder / f".{name}"
            fresh.unlink(missing_ok=True)
            with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
                file.write(secret.make(folder))
            fresh.replace(path)
            made.append(name)
        if hand_over:
            os.chown(path, secret.reader, secret.reader)
        path.chmod(0o600)
    return made


def _of(folder: Path, name: str) -> str:
    return (folder / name).read_text(encoding="utf-8").strip()


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("which folder?")
    print("\n".join(ensure(Path(sys.argv[1]), hand_over=False)))
