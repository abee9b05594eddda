"""This machine's own state folder, for the admin's commands that need no server."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from fumehood.errors import NotFoundError
from fumehood.ports import Artifacts, Store
from fumehood.settings import Settings
from worker import worlds


def is_there(settings: Settings) -> bool:
    """Return whether anything was kept on this machine yet."""
    return bool(settings.database_url) or settings.state_dir.exists()


@contextmanager
def opened(settings: Settings, *, new: bool = False) -> Iterator[tuple[Store, Artifacts]]:
    """Give this machine's own state: whoever may write it is its admin. `new` makes it where there is none yet."""
    if not new and not is_there(settings):
        raise NotFoundError(f"There is no state folder {settings.state_dir} yet: name a server with --url.")
    worlds.prepare_state(settings)
    store = worlds.store_of(settings)
    try:
        yield store, worlds.artifacts_of(settings)
    finally:
        store.close()
