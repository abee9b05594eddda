"""Granting the direction's model to an execution: where the gateway of models is, and the token of one launch."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from fumehood.domain.execution import Spec
from fumehood.domain.ids import DirectionId, TenantId
from fumehood.domain.ledger import Claims
from fumehood.domain.token import EXECUTION_ROLE, MARGIN_S, id_for_execution, mint_for_execution
from fumehood.errors import BadInputError, SandboxUnavailableError
from fumehood.gateway.tokens import executions_secret_of

if TYPE_CHECKING:
    from fumehood.settings import Settings

_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelGateway:
    """The platform's own gateway. An administrator says where it is, so any address will do; no program has a say."""

    url: str
    secret: Callable[[], bytes] = field(repr=False)
    """Gives what tokens of executions are signed with; nothing while there is none."""

    def __post_init__(self) -> None:
        """Refuse what is no address."""
        self.place()

    def place(self) -> dict[str, Any]:
        """Return its scheme, host, port and the path that all of its own stand below."""
        try:
            told = urlsplit(self.url)
            port = told.port
        except ValueError:
            told, port = urlsplit(""), None
        if told.scheme not in _PORTS or not told.hostname or told.query or told.fragment or "@" in told.netloc:
            raise BadInputError(f"FUMEHOOD_GATEWAY_URL is http://HOST:PORT, not {self.url!r}.")
        return {
            "scheme": told.scheme,
            "host": told.hostname,
            "port": port or _PORTS[told.scheme],
            "path": told.path.rstrip("/"),
        }

    def token(self, spec: Spec) -> str:
        """Return the token of a launch. It names the execution and no more: the gateway asks the database the rest."""
        execution = spec.labels["execution"]
        claims = Claims(
            tenant=TenantId(""),
            direction_id=DirectionId(spec.labels["direction"]),
            role=EXECUTION_ROLE,
            model="",
            id=id_for_execution(execution, spec.fence),
            execution=execution,
            fence=spec.fence,
            expires_at=time.time() + spec.limits.wall_s + MARGIN_S,
        )
        return mint_for_execution(claims, self.secret())


def check(spec: Spec, gateway: ModelGateway | None) -> None:
    """Refuse an execution that asks for a model which nobody pays for, or which is not reached from here."""
    if not {"execution", "direction"} <= set(spec.labels):
        raise SandboxUnavailableError(
            "A command of its own has no direction that would pay for calls of a model, so it is not given llm.",
            remedy="Leave llm out of --network.",
            reason="capability_unsupported",
        )
    if gateway is None or not gateway.secret():
        raise SandboxUnavailableError(
            "The capability llm cannot be given here: the run side does not know the gateway of models.",
            remedy="Set FUMEHOOD_GATEWAY_URL and FUMEHOOD_EXECUTIONS_SECRET for the run workers and the watcher.",
            reason="capability_unsupported",
        )


def of(settings: Settings) -> ModelGateway | None:
    """Return the gateway that the settings name; None where they name none."""
    if not settings.gateway_url:
        return None
    # Asked each time: a gateway that is started later than this process leaves its secret later.
    return ModelGateway(url=settings.gateway_url, secret=lambda: executions_secret_of(settings))
