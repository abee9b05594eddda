"""A state folder for one command alone, in which recorded work is done again without touching the installation's."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from fumehood.artifacts.signing import SECRET_FILE
from fumehood.settings import Settings
from worker import worlds


@contextmanager
def apart(settings: Settings, purpose: str, **changes: Any) -> Iterator[Settings]:
    """Make a state folder below the installation's, take it away in the end, and yield the settings to work in it.

    Data are drawn from the installation's secret, as they were here; `changes` are further settings.
    """
    folder = settings.state_dir / purpose / secrets.token_hex(6)
    place = folder / SECRET_FILE
    folder.mkdir(parents=True, mode=0o700)
    place.parent.mkdir(mode=0o700)
    if (settings.state_dir / SECRET_FILE).is_file():
        shutil.copy2(settings.state_dir / SECRET_FILE, place)
    told: dict[str, Any] = {
        "state_dir": folder,
        "lab_dir": worlds.lab_folder(settings).resolve(),
        "derived_labs_dir": settings.derived_labs.resolve(),
        "database_url": "",
        "s3_endpoint": "",
        "metrics_port": 0,
    }
    try:
        yield settings.model_copy(update=told | changes)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
