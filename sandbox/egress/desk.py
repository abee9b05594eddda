"""What becomes of one request: read, counted, paced, asked for or found, and noted."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import anyio

from sandbox.egress import request
from sandbox.egress.cache import Cache, Heard
from sandbox.egress.capabilities import Capability
from sandbox.egress.journal import Journal
from sandbox.egress.pace import Pace
from sandbox.egress.request import RefusedError, Wanted
from sandbox.egress.upstream import Answer, Upstream

TRIES = 3
PATIENCE_S = 20.0
"""An upstream that asks for a longer pause is not waited for; the program is told."""
_TYPE = re.compile(r"[a-z]+/[a-z0-9.+-]+(?:; ?charset=[A-Za-z0-9-]+)?", re.IGNORECASE)
_OPAQUE = "application/octet-stream"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What the program gets."""

    status: int
    content_type: str
    body: bytes
    retry_after_s: float = 0.0
    allow: str = "GET"
    """What the path takes, where the status is 405."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where the answers of one capability come from."""

    capability: Capability
    upstream: Upstream
    pace: Pace


@dataclass(slots=True, kw_only=True)
class Desk:
    """Answers the requests of one execution."""

    sources: Mapping[str, Source]
    journal: Journal
    requests: int
    """How many may go up."""
    cache: Cache | None = None
    """Set in replay, where nothing goes up."""
    heard: Heard | None = None
    """Set while recording."""
    _at_once: anyio.CapacityLimiter = field(default_factory=lambda: anyio.CapacityLimiter(4))

    async def answer(self, method: bytes, target: bytes, headers: list[tuple[bytes, bytes]], version: bytes) -> Reply:
        """Return the reply to a request; it is noted, whatever comes of it."""
        wanted: Wanted | None = None
        try:
            allowed = {name: source.capability for name, source in self.sources.items()}
            wanted = request.read(method, target, headers, version, allowed)
            answer = await (self._ask(wanted) if self.cache is None else self._find(wanted, self.cache))
            return Reply(status=200, content_type=_content_type(answer.content_type), body=answer.body)
        except OSError:
            # The host's disk is full: what cannot be counted does not go up.
            return problem(RefusedError(503, "Requests cannot be counted at this moment.", retry_after_s=5))
        except RefusedError as error:
            reply = problem(error)
            if not error.went_up:
                path = wanted.path if wanted else target.decode("latin-1").partition("?")[0]
                self.journal.note_refused(
                    method=method.decode("latin-1"),
                    capability=wanted.capability.name if wanted else "",
                    path=path,
                    status=reply.status,
                )
            return reply

    async def _find(self, wanted: Wanted, cache: Cache) -> Answer:
        self._check_budget()
        found = cache.find(wanted)
        if found is None:
            raise RefusedError(504, "This request was not recorded, and in replay nothing goes up.")
        self.journal.spend()
        self.journal.note(wanted, 200, len(found.body), cached=True)
        return found

    async def _ask(self, wanted: Wanted) -> Answer:
        self._check_budget()
        source = self.sources[wanted.capability.name]
        async with self._at_once:
            for last in (*[False] * (TRIES - 1), True):
                await source.pace.turn()
                self._check_budget()
                try:
                    return await self._once(source.upstream, wanted)
                except RefusedError as error:
                    if error.status != 429:
                        raise
                    await source.pace.pause(error.retry_after_s)
                    if last or error.retry_after_s > PATIENCE_S:
                        raise
        raise AssertionError("the last try returns or raises")

    async def _once(self, upstream: Upstream, wanted: Wanted) -> Answer:
        self.journal.spend()
        try:
            answer = await upstream.ask(wanted)
        except RefusedError as error:
            self.journal.note(wanted, error.status, 0, cached=False)
            error.went_up = True
            raise
        self.journal.note(wanted, 200, len(answer.body), cached=False)
        if self.heard is not None:
            self.heard.add(wanted, answer)
        return answer

    def _check_budget(self) -> None:
        if self.journal.spent >= self.requests:
            raise RefusedError(429, f"All {self.requests} requests of this execution are used up.")


def problem(error: RefusedError) -> Reply:
    """Return a refusal as the program reads it."""
    told = {"type": "about:blank", "status": error.status, "detail": error.sentence}
    return Reply(
        status=error.status,
        content_type="application/problem+json",
        body=json.dumps(told).encode() + b"\n",
        retry_after_s=error.retry_after_s,
    )


def _content_type(told: str) -> str:
    return told if _TYPE.fullmatch(told) else _OPAQUE
