"""What there is to choose from, what came of it all, and the keys to check it with."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from api.admin_views import UsageRead
from api.context import GUARDED, OPEN, AskedBy, AskedPage, Context, errors
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
from fumehood.services import templates, tenants


def router(context: Context) -> APIRouter:
    """Return the routes."""
    routes = APIRouter(tags=["catalogue"])

    @routes.get(
        "/v1/signing-keys",
        summary="Read the public signing keys",
        dependencies=OPEN,
        responses=errors(422, guarded=False),
    )
    def list_signing_keys() -> SigningKeysRead:
        """Return the public keys that sign records; no key is needed to read them."""
        found = context.public_keys()
        return SigningKeysRead(items=[SigningKeyRead(id=key, pem=pem.decode()) for key, pem in found.items()])

    @routes.get("/v1/templates", summary="List the templates", dependencies=GUARDED, responses=errors())
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

    @routes.get("/v1/models", summary="List the models", dependencies=GUARDED, responses=errors())
    def list_models() -> ModelsRead:
        """Return the models that are free or whose price is known, with who answers and what each takes.

        Whether there is a key for one is not told.
        """
        return ModelsRead(items=[ModelRead.of(name, facts) for name, facts in context.models.all().items()])

    @routes.get("/v1/reports/summary", summary="Read the results table", dependencies=GUARDED, responses=errors(404))
    def read_summary(
        asked: AskedPage,
        by: AskedBy,
        direction: Annotated[str | None, Query(description="Only this direction's row.")] = None,
    ) -> Page[SummaryRead]:
        """Return a row for each direction, oldest first, with failed and negative results."""
        return asked.page(
            context,
            lambda after, limit: context.shelf(by).summaries(context.artifacts, after, limit, direction),
            lambda one: one[0],
            lambda one: SummaryRead.model_validate(one[1]),
        )

    @routes.get("/v1/usage", summary="Read the tenant's usage", dependencies=GUARDED, responses=errors())
    def read_usage(by: AskedBy) -> UsageRead:
        """Return what the caller's tenant may take, and what it has taken in all and today."""
        return UsageRead.of(*tenants.usage(context.store, context.clock, by.tenant))

    return routes
