"""The way between a domain value and its plain columns, shared by every store so that all keep the same things."""

from __future__ import annotations

import dataclasses
import math
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from enum import Enum
from typing import Any, Final, Generic, TypeVar

from pydantic import TypeAdapter

from fumehood.domain.admission import Admission
from fumehood.domain.audit import AuditEntry
from fumehood.domain.catalogue import Entry
from fumehood.domain.direction import Direction, DirectionState
from fumehood.domain.experiment import Execution, Experiment, Run
from fumehood.domain.feedback import Feedback
from fumehood.domain.idea import Idea
from fumehood.domain.ids import TenantId
from fumehood.domain.ledger import CallText, LedgerEntry, ModelCall, day_account
from fumehood.domain.log import Leaf, TreeHead
from fumehood.domain.machine import Lease, Peak
from fumehood.domain.output import Output
from fumehood.domain.quota import Balance
from fumehood.domain.reply import Reply
from fumehood.domain.step import Event, Step
from fumehood.domain.tenant import Key, Switch, Tenant
from fumehood.domain.token import Revocation
from fumehood.domain.worker import Worker
from fumehood.errors import ConflictError

T = TypeVar("T")
STOPPED: Final = (DirectionState.FAILED.value, DirectionState.CANCELLED.value)
"""Of a direction in such a state only the engine's steps are still done."""

LIVE: Final = tuple(state.value for state in DirectionState if state.value not in {*STOPPED, DirectionState.DONE.value})
"""States of a direction that goes on."""


_AS_THEY_ARE: Final = frozenset({int, bool, type(None)})


def plain(value: Any) -> Any:
    """Return what JSON can say of a value: mappings, lists and scalars."""
    kind = type(value)
    if kind in _AS_THEY_ARE or (kind is str and value.isascii() and "\0" not in value):
        # What most values are, told in a fraction of the time.
        return value
    if isinstance(value, Enum):
        return value.value
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, float):
        # JSON has no word for these; a float's reader takes them back from text.
        return value if math.isfinite(value) else str(value)
    if isinstance(value, str):
        # A program's output may hold what no database keeps: halves of surrogate pairs, and NUL on PostgreSQL.
        return value.encode(errors="replace").decode().replace("\0", "\N{REPLACEMENT CHARACTER}")
    if isinstance(value, Mapping):
        return {plain(key): plain(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [plain(item) for item in value]
    if dataclasses.is_dataclass(value):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    raise TypeError(f"A {type(value).__name__} cannot be stored.")


class Shape(Generic[T]):
    """One kind of domain value and its columns."""

    def __init__(self, kind: type[T], noun: str, **derived: Callable[[T], object]) -> None:
        self.noun = noun
        self.derived = derived
        """Columns that say in the open what lies inside another, so that the database can count by it."""
        self.columns = tuple(field.name for field in dataclasses.fields(kind))  # type: ignore[arg-type]
        self._adapter = TypeAdapter(kind)

    def row(self, value: T) -> dict[str, Any]:
        """Return the value's columns."""
        row = {}
        for name in self.columns:
            item = getattr(value, name)
            # A number in a column of its own is compared there, so it stays one even when it is infinite; bytes have a
            # column of their own too.
            row[name] = item if isinstance(item, (float, bytes)) else plain(item)
        for name, found in self.derived.items():
            row[name] = plain(found(value))
        return row

    def value(self, row: Mapping[str, Any]) -> T:
        """Return the value that these columns hold."""
        return self._adapter.validate_python({name: row[name] for name in self.columns})

    def wanted(self, equal: Mapping[str, object]) -> dict[str, Any]:
        """Return what the columns must equal; `TypeError` for a column that is not there or is no scalar."""
        wanted = {name: plain(value) for name, value in equal.items()}
        for name, value in wanted.items():
            if name not in self.columns or isinstance(value, (dict, list)):
                raise TypeError(f"No {self.noun} can be found by {name!r}.")
        return wanted


DIRECTION: Final = Shape(Direction, "direction")
IDEA: Final = Shape(Idea, "idea")
EXPERIMENT: Final = Shape(Experiment, "experiment")
RUN: Final = Shape(Run, "run")
EXECUTION: Final = Shape(Execution, "execution", verdict=lambda one: one.outcome and one.outcome.verdict)
CALL: Final = Shape(ModelCall, "call")
CALL_TEXT: Final = Shape(CallText, "call's text")
STEP: Final = Shape(Step, "step")
EVENT: Final = Shape(Event, "event")
ENTRY: Final = Shape(LedgerEntry, "ledger entry")
BALANCE: Final = Shape(Balance, "balance")
LEASE: Final = Shape(Lease, "lease")
PEAK: Final = Shape(Peak, "peak")
TENANT: Final = Shape(Tenant, "tenant")
KEY: Final = Shape(Key, "key")
SWITCH: Final = Shape(Switch, "switch")
REVOCATION: Final = Shape(Revocation, "revocation")
REPLY: Final = Shape(Reply, "reply")
FEEDBACK: Final = Shape(Feedback, "comment")
CATALOGUE: Final = Shape(Entry, "entry of the catalogue")
AUDIT: Final = Shape(AuditEntry, "audit entry")
OUTPUT: Final = Shape(Output, "piece of output", end=lambda one: one.end)
WORKER: Final = Shape(Worker, "worker")
LEAF: Final = Shape(Leaf, "leaf")
TREE_HEAD: Final = Shape(TreeHead, "tree head")


_ADMISSION: Final = TypeAdapter(Admission)


def admission(row: Mapping[str, Any], day: str) -> Admission:
    """Return what a row of the question for a token's admission says."""
    said, tenant = {**row, "quotas": row["quotas"] or {}}, TenantId(row["tenant"])
    for name, account in (("total", str(tenant)), ("day", day_account(tenant, day))):
        said[name] = {"id": account, "usd": said.pop(f"{name}_usd"), "tokens": said.pop(f"{name}_tokens")}
    return _ADMISSION.validate_python(said)


class Alone:
    """Keeps a thread from opening a second transaction inside its first, which would wait for itself."""

    def __init__(self) -> None:
        self._local = threading.local()

    @contextmanager
    def inside(self) -> Iterator[None]:
        """Hold the thread's one transaction; `ConflictError` when it has one already."""
        if getattr(self._local, "open", False):
            raise ConflictError("Transactions do not nest: this thread has one open on this store.")
        self._local.open = True
        try:
            yield
        finally:
            self._local.open = False
