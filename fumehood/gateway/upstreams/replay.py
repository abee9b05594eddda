"""The upstream of a replay: it answers from a record and asks nobody."""

from __future__ import annotations

import threading
from collections.abc import Iterator

from fumehood.domain.ledger import Claims
from fumehood.errors import BadInputError
from fumehood.gateway.models import Model, Models, Source
from fumehood.gateway.record import Record
from fumehood.gateway.request import Body, estimate_tokens
from fumehood.gateway.sse import Event, events_of
from fumehood.gateway.upstream import Message
from fumehood.gateway.upstreams.playbook import refuse

NAME = "replay"


class Replay:
    """Gives each recorded answer once, to the call that it was given to."""

    name = NAME

    def __init__(self, record: Record) -> None:
        self._record = record
        self._one_at_a_time = threading.Lock()

    def send(self, claims: Claims, body: Body) -> Message:
        """Return what was answered to this call."""
        try:
            with self._one_at_a_time:
                return self._record.take(claims, body)
        except BadInputError as error:
            raise refuse(str(error)) from error

    def stream(self, claims: Claims, body: Body) -> Iterator[Event]:
        """Return the same answer as events."""
        return events_of(self.send(claims, body))

    def count(self, claims: Claims, body: Body) -> int:  # noqa: ARG002 - part of the port
        """Return about how many tokens the prompt has."""
        return estimate_tokens(str(body["messages"]))


def models_of(record: Record) -> Models:
    """Return a table in which the record answers for every model that it names, and nothing is paid."""
    source = Source(name=NAME, kind="offline")
    return Models({NAME: source}, {name: Model(upstream=NAME, free=True) for name in record.models})
