"""A direction's events and a run's output as they come from a server, across every cut of the connection."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import httpx

from fumehood.cli.output import Progress
from fumehood.cli.remote import NOBODY, Server
from fumehood.domain.direction import Hold
from fumehood.domain.ids import DirectionId
from fumehood.domain.step import Event
from fumehood.errors import FumehoodError, ModelUnavailableError, OverBudgetError, PolicyError, WorkFailedError

SILENCE_S = 45.0
"""Three heartbeats of the server."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.2, 5.0
"""Before a stream that was cut is asked for again; twice as long each time that nothing came."""
PATIENCE_S = 60.0
"""How long a server may be away in a row."""
_MENDED_BY_HAND: dict[str, type[FumehoodError]] = {
    Hold.OVER_BUDGET: OverBudgetError,
    Hold.NO_MODEL: ModelUnavailableError,
    Hold.POLICY: PolicyError,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """One server-sent event."""

    id: str
    name: str
    data: str


def decode(lines: Iterable[str]) -> Iterator[Told]:
    """Read server-sent events from the lines of a stream; one that was cut in the middle is left out."""
    fields: dict[str, str] = {}
    for line in lines:
        if not line:
            if "data" in fields:
                yield Told(id=fields.get("id", ""), name=fields.get("event", "message"), data=fields["data"])
            fields = {}
        elif not line.startswith(":"):
            name, _, value = line.partition(":")
            fields[name] = value.removeprefix(" ")


def follow(server: Server, direction_id: DirectionId, progress: Progress) -> None:
    """Show a direction's events until it has ended.

    Raises `OverBudgetError`, `ModelUnavailableError` or `PolicyError` when it is held for what a person must mend, and
    `MachineUnfitError` when the server stays away.
    """
    for event in events(server, direction_id):
        progress.event(event)
        if event.kind in _MENDED_BY_HAND and _is_held(server, direction_id, event.kind):
            raise _MENDED_BY_HAND[event.kind](f"{event.text.rstrip('.')}. Nothing is lost.")


def events(server: Server, direction_id: DirectionId) -> Iterator[Event]:
    """Give all events of a direction, each once, and return when it has ended."""
    for told in _stream(server, f"/v1/directions/{direction_id}/events"):
        if told.name != "end":
            yield _event(direction_id, told)


def printed(server: Server, run_id: str) -> Iterator[tuple[str, str]]:
    """Give what a run's program prints as it comes, each piece with no verdict, and last nothing with the verdict."""
    for told in _stream(server, f"/v1/runs/{run_id}/log?follow=true"):
        try:
            found = json.loads(told.data)
            yield ("", str(found["verdict"])) if told.name == "end" else (str(found["text"]), "")
        except (ValueError, KeyError, TypeError) as error:
            raise WorkFailedError("What the server sends is not a log of Fumehood's.") from error


def _stream(server: Server, path: str) -> Iterator[Told]:
    """Give what a stream tells, each event once, across every cut; `end` is the last."""
    last, pause, is_known = "", FIRST_PAUSE_S, False
    away_since: float | None = None
    while True:
        try:
            headers = {"Last-Event-ID": last} if last else {}
            with server.stream(path, headers, SILENCE_S) as lines:
                is_known, away_since = True, None
                for told in decode(lines):
                    if told.name == "end":
                        yield told
                        return
                    last, pause = told.id, FIRST_PAUSE_S
                    yield told
        except httpx.TransportError as error:
            now = time.monotonic()
            away_since = away_since or now
            if (isinstance(error, NOBODY) and not is_known) or now - away_since > PATIENCE_S:
                raise server.away(error) from error
        time.sleep(pause)
        pause = min(LONGEST_PAUSE_S, 2 * pause)


def _event(direction_id: DirectionId, told: Told) -> Event:
    try:
        found = json.loads(told.data)
        return Event(
            direction_id=direction_id,
            kind=str(found["kind"]),
            text=str(found["text"]),
            seq=int(found["seq"]),
            at=float(found["at"]),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise WorkFailedError("What the server sends is not an event of Fumehood's.") from error


def _is_held(server: Server, direction_id: DirectionId, hold: str) -> bool:
    """Whether the hold stands still; what was told may be long past."""
    path = f"/v1/directions/{direction_id}"
    if server.get(path)["hold"] == hold:
        return True
    return any(one["hold"] == hold for one in server.pages(f"{path}/experiments"))
