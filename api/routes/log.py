"""The log of the installation: its signed head, and proofs of what is in it and that it only grew."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from api.context import GUARDED, AskedBy, Context, errors
from api.log_views import ContinuedRead, IncludedRead, TreeHeadRead
from fumehood.services import log_reading

MOST = 2**53
"""More than any log holds, and the most that every reader of JSON counts to."""
Place = Annotated[int, Query(ge=0, le=MOST, description="Which leaf, from 0.")]
Size = Annotated[int | None, Query(ge=0, le=MOST, description="In the tree of how many leaves; else the signed one.")]
From = Annotated[int, Query(alias="from", ge=0, le=MOST, description="How many leaves the earlier tree has.")]
To = Annotated[int | None, Query(alias="to", ge=0, le=MOST, description="The later one's; else the signed one.")]


def router(context: Context) -> APIRouter:
    """Return the routes."""
    routes = APIRouter(prefix="/v1/log", tags=["log"], dependencies=GUARDED)

    @routes.get("", summary="Read the log's signed head", responses=errors(404))
    def read_tree_head() -> TreeHeadRead:
        """Return how many entries the installation's log has, their root, and both signed."""
        return TreeHeadRead.of(log_reading.head(context.store))

    @routes.get("/proof", summary="Prove that a leaf is in the log", responses=errors(404))
    def prove_inclusion(by: AskedBy, leaf: Place, size: Size = None) -> IncludedRead:
        """Return a leaf's hash and those that lead from it to the root; its entry too, where it is the tenant's."""
        return IncludedRead.of(log_reading.included(context.store, by.tenant, leaf, size))

    @routes.get("/consistency", summary="Prove that the log only grew", responses=errors(404))
    def prove_consistency(old: From, new: To = None) -> ContinuedRead:
        """Return the hashes that show that a later tree begins with an earlier one, leaf by leaf."""
        return ContinuedRead.of(log_reading.continued(context.store, old, new))

    return routes
