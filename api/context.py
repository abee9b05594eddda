"""What the routes share: the ports, the cursors and the feed, and how operations are documented."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar
from urllib.parse import urlencode

from fastapi import Depends, Header, Query, Request, Response
from fastapi.dependencies.models import Dependant
from fastapi.security import HTTPBearer
from pydantic import BaseModel

from api.cursors import Cursors
from api.feed import Feed
from api.schemas import Problem
from api.views import Page
from fumehood.domain.direction import Direction
from fumehood.domain.policy import Policy
from fumehood.errors import BadInputError
from fumehood.gateway.models import Models
from fumehood.ports import Artifacts, Clock, Queue, Store
from fumehood.services import keys
from fumehood.services.browsing import Shelf
from fumehood.services.keys import Caller
from fumehood.services.known_templates import KnownTemplates
from fumehood.services.replies import Once
from fumehood.services.submissions import Checked

T = TypeVar("T")
Shown = TypeVar("Shown", bound=BaseModel)
PROBLEM = {
    "application/problem+json": {
        "schema": Problem.model_json_schema(),
        "example": {
            "type": "urn:fumehood:problem:not-found",
            "title": "not found",
            "status": 404,
            "detail": "There is no direction with this id.",
            "request_id": "req_01kxq3v5m8w2c9f4h7j6n0p1rs",
        },
    }
}
ERRORS = {
    400: "A body that cannot be read",
    401: "No key, or a wrong one",
    402: "A quota or a budget refuses",
    403: "The key lacks the scope",
    404: "No such thing, or not yet",
    409: "It is not in a state that allows this",
    413: "A body that is too long",
    416: "A range outside of the file",
    422: "Input that cannot be used",
    429: "Too many requests, or streams at once",
    503: "The database, the queue or this machine cannot serve it now",
}
GUARDED_ERRORS = (401, 403, 422, 429, 503)
"""What any operation that asks for a key may answer."""


def errors(*statuses: int, guarded: bool = True) -> dict[int | str, dict[str, Any]]:
    """Return how an operation's errors are documented."""
    all_of_them = sorted({*statuses, *(GUARDED_ERRORS if guarded else ())})
    return {status: {"description": ERRORS[status], "content": PROBLEM} for status in all_of_them}


def content(*kinds: str, example: Any = None) -> dict[int | str, dict[str, Any]]:
    """Return how an answer that is a file is documented."""
    schema = {"type": "string", "format": "binary"}
    told = {kind: {"schema": {} if kind.endswith("json") else schema, "example": example or "..."} for kind in kinds}
    return {200: {"description": "The file", "content": told}}


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What the routes work with."""

    store: Store
    artifacts: Artifacts
    clock: Clock
    queue: Queue
    shipped: Path
    cursors: Cursors
    feed: Feed
    policy: Policy
    """What comes in is screened by its rules."""
    models: Models
    """Those that the gateway knows; whether it has a key for one is not the API's to know."""
    accept: Callable[[Callable[[], Checked]], Awaitable[Direction]]
    """Checks and stores a submission, together with others that came at the same moment."""
    known_templates: KnownTemplates
    public_keys: Callable[[], Mapping[str, bytes]]
    """The signing keys by fingerprint, as PEM."""

    def shelf(self, by: Caller) -> Shelf:
        """Return what the caller may see."""
        return Shelf(self.store, by.tenant)

    def still_opens(self, by: Caller) -> Callable[[], bool]:
        """Return what asks whether the caller's key opens still, for an answer that goes on for long."""
        return lambda: keys.still_opens(self.store, self.clock, by.key)


async def caller(request: Request) -> Caller:
    """Return whose key the door let in; it waits for nothing, so it needs no thread."""
    found: Caller = request.state.caller
    return found


AskedBy = Annotated[Caller, Depends(caller)]


async def _once(
    request: Request,
    by: AskedBy,
    idempotency_key: Annotated[
        str | None,
        Header(
            min_length=1,
            max_length=200,
            pattern=r"^[!-~]+$",
            description="Sent again with the same key, the request is carried out once.",
        ),
    ] = None,
) -> Once | None:
    if idempotency_key is None:
        return None
    told = hashlib.sha256(f"{request.method} {request.url.path}\n".encode() + await request.body()).hexdigest()
    return Once(tenant=by.tenant, key=idempotency_key, request=told)


AskedOnce = Annotated[Once | None, Depends(_once)]


def say_replayed(response: Response, once: Once | None) -> None:
    """Say in the answer that it is one that was given before."""
    if once and once.was_replayed:
        response.headers["Idempotent-Replayed"] = "true"


async def known_names_only(request: Request) -> None:
    """Refuse a query that names what the operation does not know, or one thing twice."""
    given = [name for name, _ in request.query_params.multi_items()]
    if not given:
        return
    known = set(_query_names(request.scope["route"].dependant))
    unknown = sorted(set(given) - known)
    if unknown:
        allowed = f"it knows {', '.join(sorted(known))}" if known else "it takes none"
        raise BadInputError(f"The query names {unknown[0][:100]!r}, which this operation does not know; {allowed}.")
    if len(set(given)) < len(given):
        raise BadInputError("The query names one thing twice.")


def _query_names(dependant: Dependant) -> Iterator[str]:
    yield from (param.alias for param in dependant.query_params)
    for inner in dependant.dependencies:
        yield from _query_names(inner)


# The door has asked for the key already; this only writes it into the documentation.
GUARDED = [Depends(HTTPBearer(auto_error=False)), Depends(known_names_only)]
OPEN = [Depends(known_names_only)]


class Asked:
    """Which page of a list is asked for."""

    def __init__(
        self,
        request: Request,
        response: Response,
        limit: Annotated[int, Query(ge=1, le=200, description="How many, at most.")] = 50,
        cursor: Annotated[
            str | None, Query(max_length=4_000, pattern=r"^[A-Za-z0-9_-]+$", description="`next` of the page before.")
        ] = None,
    ) -> None:
        self._request = request
        self._response = response
        self._limit = limit
        self._cursor = cursor

    def page(
        self,
        context: Context,
        read: Callable[[str | None, int], Sequence[T]],
        place: Callable[[T], str],
        show: Callable[[T], Shown],
    ) -> Page[Shown]:
        """Return the page, and the next one's cursor and link where there is one."""
        path = self._request.url.path
        filters = {k: v for k, v in self._request.query_params.items() if k not in {"cursor", "limit"}}
        scope = f"{path}?{urlencode(sorted(filters.items()))}"
        after = None if self._cursor is None else context.cursors.read(scope, self._cursor)
        # One more than asked for tells whether there is another page.
        found = read(after, self._limit + 1)
        shown = found[: self._limit]
        following = context.cursors.make(scope, place(shown[-1])) if len(found) > self._limit else None
        if following:
            query = urlencode({**filters, "limit": self._limit, "cursor": following})
            self._response.headers["Link"] = f'<{path}?{query}>; rel="next"'
        return Page(items=[show(one) for one in shown], next=following)


AskedPage = Annotated[Asked, Depends()]
