"""The ids of the work in hand, which stand on every line that is logged meanwhile."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from types import MappingProxyType

_IDS: ContextVar[Mapping[str, str]] = ContextVar("ids", default=MappingProxyType({}))


@contextmanager
def working_on(**named: str | None) -> Iterator[None]:
    """Add ids (`request_id, tenant, direction, experiment, step, execution`) for the block; empty ones are left out."""
    token = _IDS.set({**_IDS.get(), **{name: value for name, value in named.items() if value}})
    try:
        yield
    finally:
        _IDS.reset(token)


def ids() -> Mapping[str, str]:
    """Return the ids of the work in hand, by name."""
    return _IDS.get()
