"""What the gateway needs from the side that answers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

from fumehood.domain.ledger import Claims
from fumehood.errors import ModelUnavailableError
from fumehood.gateway.request import Body
from fumehood.gateway.sse import Event

Message = dict[str, Any]


class UpstreamError(ModelUnavailableError):
    """The side that answers did not; `status` and `kind` are what the caller is told."""

    def __init__(
        self,
        message: str,
        *,
        status: int,
        kind: str,
        retryable: bool = False,
        mendable: bool = False,
        maybe_paid: bool = False,
    ) -> None:
        super().__init__(message, retryable=retryable, mendable=mendable)
        self.status = status
        self.kind = kind
        self.maybe_paid = maybe_paid
        """Whether the provider may take money though no answer came, as one that was left in the middle does."""


class Upstream(Protocol):
    """One kind of model, spoken to in the terms of the Messages API. Every verb raises `UpstreamError` only."""

    name: str

    def send(self, claims: Claims, body: Body) -> Message:
        """Return the whole answer."""

    def stream(self, claims: Claims, body: Body) -> Iterator[Event]:
        """Return the answer's events; a failure before the first of them is raised here, not while they are read."""

    def count(self, claims: Claims, body: Body) -> int:
        """Return how many tokens the prompt has."""
