"""Ends what commands that were killed left: directions that stand for a baseline or a draft, which no command takes up.

Such a direction has no ideas. It would be under way for good, and its containers would stay on the machine.
"""

from __future__ import annotations

from fumehood.cli.children import halt
from fumehood.domain.direction import Hold
from fumehood.domain.tenant import LOCAL_TENANT
from fumehood.services import directions, tenants
from fumehood.settings import Settings
from fumehood.store.clock import SystemClock
from worker import worlds


def end(settings: Settings) -> None:
    """Cancel these directions and remove what they have on the machine; one whose command lives is left to it."""
    begun = worlds.of_commands(settings)
    store = worlds.store_of(settings)
    try:
        with store.begin(write=False) as tx:
            live = [one for state in tenants.LIVE for one in tx.directions.find(tenant=LOCAL_TENANT, state=state)]
        for one in live:
            if one.ideas or one.hold is not Hold.NONE or one.id not in begun:
                continue
            with worlds.only_one(worlds.command_lock(settings, one.id)) as is_free:
                if is_free:
                    halt(settings, one.sandbox, one.id)
                    directions.cancel(store, SystemClock(), one.id)
    finally:
        store.close()
