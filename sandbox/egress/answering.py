"""The inside of a gateway's process: from its plan, as root, to answering, as nobody."""

from __future__ import annotations

# Needed by name look-ups, and read at the first one, when there is no right to read any more.
import concurrent.futures.thread  # noqa: F401
import encodings.idna  # noqa: F401
import marshal
import os
import socket
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio

from sandbox.egress import process, serving
from sandbox.egress.cache import Cache, Heard
from sandbox.egress.capabilities import ALL
from sandbox.egress.desk import Desk, Source
from sandbox.egress.journal import Journal
from sandbox.egress.models import Models, Place
from sandbox.egress.pace import Pace
from sandbox.egress.upstream import Base, Upstream

LEFT_OVER_S = 120.0
"""So long after its execution's time is up a gateway ends, also when nobody wrote an end down."""


def run(folder: str, ready: int, told: bytes) -> None:
    """Open everything, give up every right, say so, and serve to the end."""
    try:
        plan: dict[str, Any] = marshal.loads(told)  # noqa: S302 - from our own parent, through a pipe
        record = Path(folder)
        process.tell_pid(f"{folder}/egress.pid")
        watched = process.Watched(folder)
        journal = Journal(record / "egress.jsonl", record / "egress.spent")
        desk, models = _desk(record, plan, journal), _models(plan, journal)
        listener = process.listen(plan["socket"], plan["uid"])
        listener.setblocking(False)
        anyio.run(_serve, desk, models, listener, watched, plan, ready)
    except Exception as error:
        # Whoever launches must hear why; whatever comes later stands in the log.
        with suppress(OSError):
            os.write(ready, f"!{type(error).__name__}: {error}".encode()[:2000])
        raise


def _models(plan: dict[str, Any], journal: Journal) -> Models | None:
    if (told := plan["models"]) is None:
        return None
    place = Place(scheme=told["scheme"], host=told["host"], port=told["port"], path=told["path"])
    return Models(place, told["token"], journal, plan["requests"])


def _desk(record: Path, plan: dict[str, Any], journal: Journal) -> Desk:
    is_replay = plan["mode"] == "replay"
    sources = {}
    for name, told in plan["sources"].items():
        base = Base(scheme=told["scheme"], host=told["host"], port=told["port"], is_double=told["is_double"])
        sources[name] = Source(
            capability=ALL[name],
            upstream=Upstream(base, key=told["key"]),
            pace=Pace(Path(told["pace"]), told["interval_s"]),
        )
    return Desk(
        sources=sources,
        journal=journal,
        requests=plan["requests"],
        cache=Cache(Path(plan["cache"])) if is_replay else None,
        heard=Heard(record / "egress.heard") if plan["mode"] == "record" else None,
    )


async def _serve(
    desk: Desk,
    models: Models | None,
    listener: socket.socket,
    watched: process.Watched,
    plan: dict[str, Any],
    ready: int,
) -> None:
    # Only now: starting the event loop reads code that a user with nothing may not be allowed to read.
    process.drop(plan["own_uid"])
    os.write(ready, b".")
    # Closed, and its number kept, so that no later word ends up anywhere else.
    os.dup2(os.open("/dev/null", os.O_WRONLY | os.O_CLOEXEC), ready, inheritable=False)
    latest = time.monotonic() + plan["wall_s"] + LEFT_OVER_S
    async with anyio.create_task_group() as tasks:
        pass_on = models.pass_on if models else None
        tasks.start_soon(lambda: serving.serve(listener, desk.answer, pass_on=pass_on))
        while not watched.is_over(time.monotonic()) and time.monotonic() < latest:
            await anyio.sleep(process.POLL_S)
        tasks.cancel_scope.cancel()
