"""What a person may set, read from the environment (`FUMEHOOD_...`) in the composition roots and passed down."""

from __future__ import annotations

import os
from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


def default_state_dir() -> Path:
    """Return where state lies when nothing is said: the system's place for root, else the user's data folder."""
    if os.geteuid() == 0:
        return Path("/var/lib/fumehood")
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local/share") / "fumehood"  # noqa: TID251 - settings


class Settings(BaseSettings):
    """Every setting of the platform."""

    model_config = SettingsConfigDict(env_prefix="FUMEHOOD_", env_nested_delimiter="__", extra="ignore", frozen=True)

    state_dir: Path = Field(default_factory=default_state_dir)
    """Holds database, keys, volumes, logs and the lab."""
    database_url: str = ""
    """SQLAlchemy URL; empty means SQLite below `state_dir`."""
    redis_url: str = "redis://127.0.0.1:6379/0"
    """Broker of the Celery workers; not used by `fumehood run`."""
    anthropic_base_url: str = "https://api.anthropic.com"
    """Where the gateway's Anthropic upstream sends calls."""
    model_tries: int = Field(default=5, ge=1)
    """How often a step asks for a model that is away before its work is held; the gateway tries within each."""
    gateway_url: str = ""
    """Where the write workers find the gateway; `fumehood run` starts its own."""
    lab_dir: Path | None = None
    """The folder of packages an experiment may import; empty means `state_dir/lab/<hash>`."""
    coder_python: Path | None = None
    """The Python of the environment that holds Aider; empty means `.venv-coder` of the checkout, where it is there."""
    run_dir: Path = Path("/run/fumehood")
    """Where volumes and the lab are mounted for sandboxes; every parent is 0711."""
    api_key: str = ""
    """The key that the API asks for."""

    @property
    def resolved_database_url(self) -> str:
        """The database that is really used."""
        return self.database_url or f"sqlite:///{self.state_dir / 'fumehood.db'}"
