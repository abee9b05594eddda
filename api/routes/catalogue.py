"""What there is to choose from, what came of it all, and the keys to check it with."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from api.context import GUARDED, OPEN, AskedPage, Context, errors
from api.schemas import Health
from api.views import (
    ModelRead,
    ModelsRead,
    Page,
    SigningKeyRead,
    SigningKeysRead,
    SummaryRead,
    TemplateRead,
    TemplatesRead,
)
from fumehood.gateway.prices import Prices
from fumehood.services import browsing, templates


def router(context: Context) -> APIRouter:
    """Return the routes."""
    routes = APIRouter(tags=["catalogue"])
    prices = Prices.shipped().known()

    @routes.get("/healthz", summary="Ask whether the process answers", dependencies=OPEN, responses=errors(422))
    def healthz() -> Health:
        """Say that the process answers."""
        return Health()

    @routes.get("/v1/signing-keys", summary="Read the public signing keys", dependencies=OPEN, responses=errors(422))
    def list_signing_keys() -> SigningKeysRead:
        """Return the public keys that sign records; no key is needed to read them."""
        found = context.public_keys()
        return SigningKeysRead(items=[SigningKeyRead(id=key, pem=pem.decode()) for key, pem in found.items()])

    @routes.get("/v1/templates", summary="List the templates", dependencies=GUARDED, responses=errors(401, 422))
    def list_templates() -> TemplatesRead:
        """Return the templates that a direction may name."""
        items = []
        for name in templates.names(context.shipped):
            files = templates.snapshot(context.shipped / name, context.artifacts)
            told = templates.load(files, context.artifacts, name)
            items.append(
                TemplateRead(
                    name=name,
                    title=told.title,
                    summary=told.summary,
                    profiles=sorted(told.profiles),
                    metrics=sorted(told.metrics),
                )
            )
        return TemplatesRead(items=items)

    @routes.get("/v1/models", summary="List the models", dependencies=GUARDED, responses=errors(401, 422))
    def list_models() -> ModelsRead:
        """Return the models whose price is known; only such a model can be asked."""
        return ModelsRead(
            items=[
                ModelRead(name=name, input_usd=facts.rates.input, output_usd=facts.rates.output)
                for name, facts in prices.items()
            ]
        )

    @routes.get(
        "/v1/reports/summary", summary="Read the results table", dependencies=GUARDED, responses=errors(401, 422)
    )
    def read_summary(
        asked: AskedPage,
        direction: Annotated[str | None, Query(description="Only this direction's row.")] = None,
    ) -> Page[SummaryRead]:
        """Return a row for each direction, oldest first, with failed and negative results."""
        return asked.page(
            context,
            lambda after, limit: browsing.summaries(context.store, context.artifacts, after, limit, direction),
            lambda one: one[0],
            lambda one: SummaryRead.model_validate(one[1]),
        )

    return routes
