"""The application: HTTP in, one service called, HTTP out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from fastapi import FastAPI
from fastapi.routing import APIRoute

from api import documentation, problem
from api.access import Access
from api.context import Context
from api.cursors import Cursors
from api.door import Door
from api.feed import Feed
from api.figures import StoreFigures
from api.meters import Meters
from api.rates import Rates
from api.readiness import Check, Readiness, checks_of
from api.routes import admin, catalogue, directions, experiments, health, log, moves
from fumehood.batching import InBatches
from fumehood.domain.policy import Policy
from fumehood.gateway.models import Models
from fumehood.ports import Artifacts, Clock, Queue, Store
from fumehood.services import keys, screening, submissions
from fumehood.services.known_templates import KnownTemplates


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
    needs: Mapping[str, Check] | None = None,
    policy: Policy = screening.NO_POLICY,
    models: Models | None = None,
    known_templates: KnownTemplates | None = None,
) -> FastAPI:
    """Return the application; every route but the open ones of the door asks for a key.

    `cursor_key` signs cursors, the same in every process of an installation; `public_keys` returns the signing keys
    as PEM, by fingerprint. `needs` are further checks of `/readyz`, such as the broker's. The rules of `policy`
    screen directions and ideas as they come in; the workers screen all by the same file. A direction may name the
    `models`, which are those that the gateway knows; left out, those that come with the platform. `known_templates`
    knows where data lie that were fetched for templates.
    """
    models = models or Models.shipped()
    app = FastAPI(
        title="Fumehood",
        version="1",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        generate_unique_id_function=_operation_id,
    )
    problem.install(app)
    feed = feed or Feed(store)
    meters = Meters(StoreFigures(store, clock, set(models.all())), lambda: feed.streams)
    # What is added last stands outermost: whoever is turned away at the door is seen too.
    app.add_middleware(Door, authenticate=lambda text: keys.authenticate(store, clock, text), rates=rates)
    app.add_middleware(Access, meters=meters, new_id=lambda: clock.new_id("req"))
    context = Context(
        store=store,
        artifacts=artifacts,
        clock=clock,
        queue=queue,
        shipped=shipped,
        cursors=Cursors(cursor_key),
        feed=feed,
        policy=policy,
        models=models,
        accept=InBatches(partial(submissions.check_and_accept, store, clock), "submitting"),
        known_templates=known_templates or KnownTemplates(),
        public_keys=public_keys,
    )
    for room in (directions, experiments, moves, catalogue, log, admin):
        app.include_router(room.router(context))
    app.include_router(documentation.router(app))
    readiness = Readiness(checks_of(store, artifacts, clock, needs or {}))
    app.include_router(health.router(meters, readiness))
    return app


def _operation_id(route: APIRoute) -> str:
    return route.name
