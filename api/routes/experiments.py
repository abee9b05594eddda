"""Experiments, their runs, and the files of both."""

from __future__ import annotations

import json
from pathlib import PurePosixPath
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from api import files
from api.context import GUARDED, AskedBy, AskedPage, Context, content, errors
from api.streams import EVENTS, AskedPlace, events_of, followed
from api.views import (
    ArtifactRead,
    AuditedRead,
    ChangeRead,
    DiffRead,
    ExperimentRead,
    FidelityRead,
    Page,
    ReviewRead,
    ReviewsRead,
    RunRead,
)
from fumehood.domain.experiment import Run
from fumehood.errors import NotFoundError
from fumehood.services import browsing, outputs
from fumehood.services.keys import Caller

FILE_ERRORS = errors(404, 416)
READ_ERRORS = errors(404)
LOG = content(files.BYTES)
LOG[200]["content"] |= events_of(
    'id: 12\ndata: {"execution_id": "exec_01kaw3vb4n8p1r5t9w2y6z0a3c", "offset": 0, "text": "loss 0.41\\n"}\n\n'
    'event: end\ndata: {"verdict": "succeeded", "exit_code": 0, "truncated": false}\n\n'
)


def router(context: Context) -> APIRouter:
    """Return the routes."""
    routes = APIRouter(prefix="/v1", tags=["experiments"], dependencies=GUARDED)
    _experiments(routes, context)
    _runs(routes, context)
    _artifacts(routes, context)
    _paper(routes, context)
    return routes


def _experiments(routes: APIRouter, context: Context) -> None:
    @routes.get("/experiments/{experiment_id}", summary="Read an experiment", responses=READ_ERRORS)
    def read_experiment(experiment_id: str, by: AskedBy) -> ExperimentRead:
        """Return an experiment and where it stands."""
        return ExperimentRead.of(context.shelf(by).experiment(experiment_id))

    @routes.get("/experiments/{experiment_id}/runs", summary="List an experiment's runs", responses=READ_ERRORS)
    def list_runs(experiment_id: str, by: AskedBy, asked: AskedPage) -> Page[RunRead]:
        """Return an experiment's runs; the first is the baseline, which a direction's experiments share."""
        found = context.shelf(by).runs(experiment_id)

        def after(known: str | None, limit: int) -> list[Run]:
            start = next((number for number, one in enumerate(found, 1) if one.id == known), 0)
            return found[start : start + limit]

        return asked.page(context, after, lambda one: one.id, RunRead.of)

    @routes.get("/experiments/{experiment_id}/diff", summary="Show what the code became", responses=READ_ERRORS)
    def read_diff(experiment_id: str, by: AskedBy) -> DiffRead:
        """Return what the experiment changed in the code of its template."""
        shelf = context.shelf(by)
        changes = shelf.difference(context.artifacts, experiment_id)
        return DiffRead(
            files=[ChangeRead.model_validate(one) for one in changes],
            audit=[AuditedRead.model_validate(one) for one in shelf.findings(context.artifacts, experiment_id)],
            fidelity=[FidelityRead.model_validate(one) for one in shelf.readings(context.artifacts, experiment_id)],
        )


def _runs(routes: APIRouter, context: Context) -> None:
    @routes.get("/runs/{run_id}", summary="Read a run", responses=READ_ERRORS)
    def read_run(run_id: str, by: AskedBy) -> RunRead:
        """Return a run, its attempts and how it ended."""
        return RunRead.of(context.shelf(by).run(run_id))

    @routes.get(
        "/runs/{run_id}/log",
        summary="Download or follow a run's log",
        response_class=Response,
        responses={**LOG, **FILE_ERRORS},
    )
    def read_log(
        run_id: str,
        by: AskedBy,
        request: Request,
        follow: Annotated[
            bool | None,
            Query(description="True: as server-sent events. Left out: by whether `Accept` asks for those."),
        ] = None,
        last_event_id: AskedPlace = 0,
    ) -> Response:
        """Return what the run's program printed, as far as it was kept, or follow what it prints.

        Of an attempt that failed, the end of its output is kept.

        Followed, the output of the newest attempt comes within about two seconds, and `event: end` tells its verdict.
        `offset` is where a piece begins in bytes; null for the kept end of a log, which stands for all before it.
        A client that was cut off resumes with `Last-Event-ID`.
        """
        found = context.shelf(by).run(run_id)
        if follow or (follow is None and EVENTS in request.headers.get("accept", "")):
            printed = context.feed.printed(context.artifacts, found.id, last_event_id)
            return followed(context.feed, context.still_opens(by), printed)
        if (tail := outputs.left(context.store, found.id)) is not None:
            return files.given(tail, "log.txt", files.BYTES)
        log = found.log
        if not log:
            raise NotFoundError("This run has no log yet: its program has not ended.")
        return files.stored(request, context.artifacts, log, "log.txt", files.BYTES)

    @routes.get(
        "/runs/{run_id}/record",
        summary="Download a run's signed record",
        response_class=Response,
        responses={**content(files.JSON, example={"payloadType": "application/vnd.in-toto+json"}), **FILE_ERRORS},
    )
    def read_record(run_id: str, by: AskedBy, request: Request) -> Response:
        """Return the run's record, a DSSE envelope that a key of `/v1/signing-keys` signed."""
        record = context.shelf(by).run(run_id).record
        if not record:
            raise NotFoundError("This run has no record: it has not been measured.")
        return files.stored(request, context.artifacts, record, "record.json", files.JSON)


def _artifacts(routes: APIRouter, context: Context) -> None:
    @routes.get("/experiments/{experiment_id}/artifacts", summary="List an experiment's files", responses=READ_ERRORS)
    def list_artifacts(experiment_id: str, by: AskedBy, asked: AskedPage) -> Page[ArtifactRead]:
        """Return the experiment's files, by path."""
        found = context.shelf(by).files(experiment_id)
        return asked.page(
            context,
            lambda after, limit: [one for one in found if after is None or one.path > after][:limit],
            lambda one: one.path,
            ArtifactRead.model_validate,
        )

    @routes.get(
        "/artifacts/{artifact_id}",
        summary="Download a file",
        response_class=Response,
        responses={**content(files.BYTES, files.JSON, files.PDF), **FILE_ERRORS},
    )
    def read_artifact(artifact_id: str, by: AskedBy, request: Request) -> Response:
        """Return the file's bytes; `ETag` is their SHA-256."""
        found = context.shelf(by).file(artifact_id)
        kind = files.BYTES
        if found.is_product and found.path == browsing.PAPER:
            kind = files.PDF
        elif found.is_product and browsing.is_json(found.path):
            kind = files.JSON
        return files.stored(request, context.artifacts, found.sha256, found.path, kind)


def _paper(routes: APIRouter, context: Context) -> None:
    def product(by: Caller, request: Request, key: str, path: str, kind: str, missing: str) -> Response:
        sha = context.shelf(by).product(key, path, missing)
        return files.stored(request, context.artifacts, sha, PurePosixPath(path).name, kind)

    @routes.get(
        "/experiments/{experiment_id}/paper",
        summary="Download the paper",
        response_class=Response,
        responses={**content(files.PDF), **FILE_ERRORS},
    )
    def read_paper(experiment_id: str, by: AskedBy, request: Request) -> Response:
        """Return the paper as PDF."""
        return product(by, request, experiment_id, browsing.PAPER, files.PDF, "This experiment has no paper yet.")

    @routes.get(
        "/experiments/{experiment_id}/paper/source",
        summary="Download the paper's source",
        response_class=Response,
        responses={**content(files.ZIP), **READ_ERRORS},
    )
    def read_source(experiment_id: str, by: AskedBy) -> Response:
        """Return the paper's LaTeX, references and figures as a ZIP."""
        found = context.shelf(by).source(experiment_id)
        return files.archive(context.artifacts, found, "paper-source.zip")

    @routes.get(
        "/experiments/{experiment_id}/claims",
        summary="Download the paper's claims",
        response_class=Response,
        responses={**content(files.JSON, example=[{"text": "0.41", "run": "run_1"}]), **FILE_ERRORS},
    )
    def read_claims(experiment_id: str, by: AskedBy, request: Request) -> Response:
        """Return each number of the paper with the place it comes from."""
        missing = "This experiment has no claims yet: its paper is not written."
        return product(by, request, experiment_id, "claims.json", files.JSON, missing)

    @routes.get("/experiments/{experiment_id}/reviews", summary="Read the paper's reviews", responses=READ_ERRORS)
    def read_reviews(experiment_id: str, by: AskedBy) -> ReviewsRead:
        """Return the reviews of the paper; none before it was reviewed."""
        found = context.shelf(by).experiment(experiment_id).products
        return ReviewsRead(
            items=[
                ReviewRead(name=name, review=json.loads(context.artifacts.get(found[name])))
                for name in browsing.REVIEWS
                if name in found
            ]
        )

    @routes.get(
        "/experiments/{experiment_id}/verification",
        summary="Download the verification",
        response_class=Response,
        responses={**content(files.JSON, example={"checks": []}), **FILE_ERRORS},
    )
    def read_verification(experiment_id: str, by: AskedBy, request: Request) -> Response:
        """Return what was checked of the experiment, and what did not hold."""
        return product(
            by, request, experiment_id, "verification.json", files.JSON, "This experiment has not been verified yet."
        )
