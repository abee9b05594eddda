"""Errors as `application/problem+json` (RFC 9457), each with a stable type."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from http import HTTPStatus

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from api.schemas import Problem
from fumehood.errors import (
    BadInputError,
    ConflictError,
    FumehoodError,
    MachineUnfitError,
    NotFoundError,
    OverBudgetError,
    PolicyError,
    StoreUnavailableError,
)
from fumehood.observe import context

STATUSES: dict[type[FumehoodError], tuple[int, str]] = {
    BadInputError: (422, "bad-input"),
    NotFoundError: (404, "not-found"),
    ConflictError: (409, "conflict"),
    OverBudgetError: (402, "over-budget"),
    PolicyError: (422, "refused-by-policy"),
    MachineUnfitError: (503, "machine-unfit"),
}
SOON = {"Retry-After": "5"}
STORE_AWAY = "The database does not answer now. Try again soon."
_LOG = logging.getLogger("fumehood.api")
NAMES = {400: "bad-request", 404: "not-found", 405: "method-not-allowed", 413: "too-large", 429: "too-many-requests"}


def problem(
    status: int, name: str, detail: str, headers: Mapping[str, str] | None = None, **more: object
) -> JSONResponse:
    """Return one problem document, with what else a program may want to know."""
    document = Problem(
        type=f"urn:fumehood:problem:{name}",
        title=name.replace("-", " "),
        status=status,
        detail=detail,
        request_id=context.ids().get("request_id", ""),
    )
    return JSONResponse(
        document.model_dump() | more,
        status_code=status,
        media_type="application/problem+json",
        headers=headers,
    )


def store_away(error: StoreUnavailableError) -> JSONResponse:
    """Return what is said while the database is away: where it is, and as whom it is asked, is for the log alone."""
    _LOG.warning("A request could not be answered: %s", error)
    return problem(503, "machine-unfit", STORE_AWAY, SOON)


def _methods(request: Request) -> list[str]:
    """Return what a path takes, by the API's own description; the framework names the first route's methods alone."""
    found = [
        method.upper()
        for path, operations in request.app.openapi()["paths"].items()
        if re.fullmatch(re.sub(r"{[^}]+}", "[^/]+", path), request.url.path)
        for method in operations
    ]
    return sorted(set(found)) or ["GET"]


def install(app: FastAPI) -> None:
    """Have every expected error answered as a problem document; `api.access` answers for the others."""

    def expected(_: Request, error: Exception) -> JSONResponse:
        if isinstance(error, StoreUnavailableError):
            return store_away(error)
        for kind in type(error).__mro__:
            if kind in STATUSES:
                status, name = STATUSES[kind]
                return problem(status, name, str(error), SOON if status == 503 else None)
        return problem(500, "internal", "The work ended badly.")

    def invalid(_: Request, error: Exception) -> JSONResponse:
        first = error.errors()[0] if isinstance(error, RequestValidationError) else {"loc": (), "msg": str(error)}
        where = ".".join(str(part) for part in first["loc"][1:] if isinstance(part, str))
        return problem(422, "bad-input", f"{where}: {first['msg']}" if where else str(first["msg"]))

    def http(request: Request, error: Exception) -> JSONResponse:
        status = error.status_code if isinstance(error, HTTPException) else 500
        detail = str(error.detail) if isinstance(error, HTTPException) else "The request failed."
        headers = error.headers if isinstance(error, HTTPException) else None
        if status == HTTPStatus.METHOD_NOT_ALLOWED:
            headers = {"Allow": ", ".join(_methods(request))}
        return problem(status, NAMES.get(status, "http"), detail, headers)

    app.add_exception_handler(FumehoodError, expected)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, http)
