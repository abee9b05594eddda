"""The application: HTTP in, one service called, HTTP out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from fastapi import FastAPI
from fastapi.routing import APIRoute

from api import problem
from api.context import Context
from api.cursors import Cursors
from api.door import Door
from api.feed import Feed
from api.rates import Rates
from api.routes import admin, catalogue, directions, experiments, moves
from fumehood.ports import Artifacts, Clock, Queue, Store
from fumehood.services import keys


def create_app(
    store: Store,
    artifacts: Artifacts,
    clock: Clock,
    queue: Queue,
    *,
    shipped: Path,
    rates: Rates,
    cursor_key: bytes,
    public_keys: Callable[[], Mapping[str, bytes]],
    feed: Feed | None = None,
) -> FastAPI:
    """Return the application; every route but the open ones of the door asks for a key.

    `cursor_key` signs cursors, the same in every process of an installation; `public_keys` returns the signing keys
    as PEM, by fingerprint.
    """
    app = FastAPI(
        title="Fumehood",
        version="1",
        redoc_url=None,
        swagger_ui_oauth2_redirect_url=None,
        redirect_slashes=False,
        generate_unique_id_function=_operation_id,
    )
    problem.install(app)
    app.add_middleware(Door, authenticate=lambda text: keys.authenticate(store, clock, text), rates=rates)
    context = Context(
        store=store,
        artifacts=artifacts,
        clock=clock,
        queue=queue,
        shipped=shipped,
        cursors=Cursors(cursor_key),
        feed=feed or Feed(store),
        public_keys=public_keys,
    )
    for room in (directions, experiments, moves, catalogue, admin):
        app.include_router(room.router(context))
    return app


def _operation_id(route: APIRoute) -> str:
    return route.name
