"""The store in memory, which keeps the same promises as the database; and a clock that stands still."""

from __future__ import annotations

import dataclasses
import itertools
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from ulid import ULID

from fumehood.domain import ledger
from fumehood.domain.admission import Admission
from fumehood.domain.audit import AuditEntry
from fumehood.domain.catalogue import Entry
from fumehood.domain.direction import PRIORITY_S, Direction, Hold
from fumehood.domain.execution import ExecutionState
from fumehood.domain.experiment import Execution, Experiment, Run
from fumehood.domain.feedback import Feedback
from fumehood.domain.figures import Figures
from fumehood.domain.idea import Idea
from fumehood.domain.ids import DirectionId, ExecutionId, TenantId
from fumehood.domain.ledger import CallText, Claims, LedgerEntry, ModelCall
from fumehood.domain.log import Leaf, TreeHead
from fumehood.domain.machine import Lease, Peak
from fumehood.domain.output import Output
from fumehood.domain.quota import Balance
from fumehood.domain.reply import Reply
from fumehood.domain.step import CLEARING, Event, Side, Step, StepState
from fumehood.domain.tenant import PLATFORM, Key, Switch, Tenant
from fumehood.domain.token import Revocation
from fumehood.domain.worker import Worker
from fumehood.errors import ConflictError, NotFoundError
from fumehood.ports import Audit, Collection, Events, Leases, Ledger, Log, Outputs, Replies, Revocations, Steps, Workers
from fumehood.store import memory_figures, plain
from fumehood.store.memory_log import MemoryLog
from fumehood.store.plain import Shape

T = TypeVar("T")
Rows = dict[str, dict[str, Any]]
"""Columns by id, in the order first saved; a row is replaced, never changed."""


@dataclass(slots=True)
class _Tables:
    directions: Rows = field(default_factory=dict)
    ideas: Rows = field(default_factory=dict)
    experiments: Rows = field(default_factory=dict)
    runs: Rows = field(default_factory=dict)
    executions: Rows = field(default_factory=dict)
    calls: Rows = field(default_factory=dict)
    call_texts: Rows = field(default_factory=dict)
    tenants: Rows = field(default_factory=dict)
    keys: Rows = field(default_factory=dict)
    switches: Rows = field(default_factory=dict)
    revocations: Rows = field(default_factory=dict)
    replies: Rows = field(default_factory=dict)
    feedback: Rows = field(default_factory=dict)
    catalogue: Rows = field(default_factory=dict)
    leases: Rows = field(default_factory=dict)
    peaks: Rows = field(default_factory=dict)
    outputs: Rows = field(default_factory=dict)
    balances: dict[str, Balance] = field(default_factory=dict)
    steps: Rows = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)
    ledger: list[LedgerEntry] = field(default_factory=list)
    audit: list[AuditEntry] = field(default_factory=list)
    leaves: list[Leaf] = field(default_factory=list)
    tree_heads: list[TreeHead] = field(default_factory=list)
    workers: Rows = field(default_factory=dict)

    def copy(self) -> _Tables:
        """Return tables that can be changed apart from these."""
        return _Tables(**{name: getattr(self, name).copy() for name in self.__slots__})


class MemoryStore:
    """A store that ends with its process; one transaction at a time, from any thread."""

    def __init__(self) -> None:
        self._tables = _Tables()
        self._version = 0
        self._lock = threading.Lock()
        self._alone = plain.Alone()

    @contextmanager
    def begin(self, *, write: bool = True, durable: bool = True) -> Iterator[MemoryTransaction]:  # noqa: ARG002 - port
        """Open a transaction on a copy, which takes the tables' place when the block ends well."""
        with self._alone.inside(), self._lock:
            work = self._tables.copy()
            yield MemoryTransaction(work)
            if work != self._tables:
                if not write:
                    raise ConflictError("This transaction was opened for reading only.")
                self._tables = work
                self._version += 1

    def version(self) -> int:
        """Return a number that changes with every commit."""
        return self._version

    def close(self) -> None:
        """Do nothing; there is nothing to close."""


class MemoryTransaction:
    """All collections on one copy of the tables."""

    def __init__(self, work: _Tables) -> None:
        owners = work.directions
        self.directions: Collection[Direction] = MemoryCollection(work.directions, plain.DIRECTION, None)
        self.ideas: Collection[Idea] = MemoryCollection(work.ideas, plain.IDEA, owners)
        self.experiments: Collection[Experiment] = MemoryCollection(work.experiments, plain.EXPERIMENT, owners)
        self.runs: Collection[Run] = MemoryCollection(work.runs, plain.RUN, owners)
        self.executions: Collection[Execution] = MemoryCollection(work.executions, plain.EXECUTION, owners)
        self.calls: Collection[ModelCall] = MemoryCollection(work.calls, plain.CALL, None)
        self.call_texts: Collection[CallText] = MemoryCollection(work.call_texts, plain.CALL_TEXT, None)
        self.tenants: Collection[Tenant] = MemoryCollection(work.tenants, plain.TENANT, None, unique="name")
        self.keys: Collection[Key] = MemoryCollection(work.keys, plain.KEY, None)
        self.switches: Collection[Switch] = MemoryCollection(work.switches, plain.SWITCH, None)
        self.revocations: Revocations = MemoryRevocations(work.revocations, plain.REVOCATION, None)
        self.replies: Replies = MemoryReplies(work.replies, plain.REPLY, None)
        self.feedback: Collection[Feedback] = MemoryCollection(work.feedback, plain.FEEDBACK, owners)
        self.catalogue: Collection[Entry] = MemoryCollection(work.catalogue, plain.CATALOGUE, None)
        self.leases: Leases = MemoryLeases(work.leases, plain.LEASE, None)
        self.peaks: Collection[Peak] = MemoryCollection(work.peaks, plain.PEAK, None)
        self.outputs: Outputs = MemoryOutputs(work)
        self.audit: Audit = MemoryAudit(work.audit)
        self.log: Log = MemoryLog(work.leaves, work.tree_heads)
        self.steps: Steps = (steps := MemorySteps(work))
        self.events: Events = MemoryEvents(work.events)
        self.ledger: Ledger = MemoryLedger(work, self)
        self.workers: Workers = MemoryWorkers(work.workers, plain.WORKER, None)
        self._work, self._steps = work, steps

    def figures(self, now: float) -> Figures:
        """Count everything that there is."""
        work = self._work
        return Figures(
            steps=memory_figures.steps(work.steps.values(), now, self._steps.is_allowed),
            directions=memory_figures.states(work.directions.values()),
            experiments=memory_figures.states(work.experiments.values()),
            executions=memory_figures.executions(work.executions.values()),
            spending=memory_figures.spending(work.ledger),
            takings=memory_figures.takings(work.ledger),
            gpus_held=len({one for row in work.leases.values() if row["ended_at"] is None for one in row["gpus"]}),
        )


class _Reading(Generic[T]):
    def __init__(self, rows: Rows, shape: Shape[T], owners: Rows | None, unique: str = "") -> None:
        self._rows = rows
        self._shape = shape
        self._owners = owners
        self._unique = unique

    def get(self, key: str) -> T:
        """Return the value; `NotFoundError` when there is none."""
        if key not in self._rows:
            raise NotFoundError(f"There is no {self._shape.noun} {key}.")
        return self._shape.value(self._rows[key])

    def find(self, **equal: object) -> tuple[T, ...]:
        """Return the values whose columns equal these, in the order they were first saved."""
        wanted = self._shape.wanted(equal).items()
        return tuple(
            self._shape.value(row) for row in self._rows.values() if all(row[name] == value for name, value in wanted)
        )

    def page(self, after: str | None, limit: int, **equal: object) -> tuple[T, ...]:
        """Return at most `limit` of what `find` returns, from the one that follows the id `after`."""
        if after is not None:
            self.get(after)
        wanted = self._shape.wanted(equal).items()
        keys = iter(self._rows)
        if after is not None:
            keys = itertools.dropwhile(lambda key: key != after, keys)
            next(keys)
        rows = (self._rows[key] for key in keys)
        chosen = (row for row in rows if all(row[name] == value for name, value in wanted))
        return tuple(self._shape.value(row) for row in itertools.islice(chosen, limit))

    def count(self, **equal: object) -> int:
        """Return how many values `find` would return."""
        wanted = self._shape.wanted(equal).items()
        return sum(all(row[name] == value for name, value in wanted) for row in self._rows.values())

    def _keep(self, value: T) -> None:
        row = self._shape.row(value)
        if self._unique and any(
            other[self._unique] == row[self._unique] and other["id"] != row["id"] for other in self._rows.values()
        ):
            raise ConflictError(f"There is a {self._shape.noun} {row[self._unique]} already.")
        if self._owners is not None and row["direction_id"] not in self._owners:
            raise ConflictError(f"The {self._shape.noun} {row['id']} belongs to a direction that is not there.")
        self._rows[row["id"]] = row


@contextmanager
def _all_or_none(rows: Rows) -> Iterator[None]:
    before = dict(rows)
    try:
        yield
    except ConflictError:
        rows.clear()
        rows.update(before)
        raise


class MemoryCollection(_Reading[T]):
    """The values of one kind."""

    def save(self, *values: T) -> None:
        """Insert the values, or replace those with their ids."""
        with _all_or_none(self._rows):
            for value in values:
                self._keep(value)


class MemoryWorkers(MemoryCollection[Worker]):
    """The worker processes."""

    def forget(self, *, before: float) -> None:
        """Remove those that were last seen before that time."""
        for key in [key for key, row in self._rows.items() if row["seen_at"] < before]:
            del self._rows[key]


class MemoryRevocations(MemoryCollection[Revocation]):
    """The tokens that open nothing any more."""

    def forget(self, *, before: float) -> None:
        """Remove what was revoked before that time."""
        for key in [key for key, row in self._rows.items() if row["at"] < before]:
            del self._rows[key]


class MemoryLeases(MemoryCollection[Lease]):
    """What executions hold of the machine."""

    def during(self, since: float, until: float) -> tuple[Lease, ...]:
        """Return those that held something at any time between these two."""
        return tuple(
            one for one in self.find() if one.since <= until and (one.ended_at is None or one.ended_at >= since)
        )


class MemoryOutputs(MemoryCollection[Output]):
    """What programs print."""

    def __init__(self, work: _Tables) -> None:
        super().__init__(work.outputs, plain.OUTPUT, None)
        self._executions = work.executions

    def after(self, execution_id: ExecutionId, fence: int, offset: int, limit: int) -> tuple[Output, ...]:
        """Return at most `limit` pieces that are not empty and begin at `offset` or later, in order."""
        found = self.find(execution_id=execution_id, fence=fence)
        later = [piece for piece in found if piece.data and piece.offset >= offset]
        return tuple(sorted(later, key=lambda piece: piece.offset)[:limit])

    def end(self, execution_id: ExecutionId, fence: int) -> int:
        """Return where the next piece begins, in bytes."""
        return max((piece.end for piece in self.find(execution_id=execution_id, fence=fence)), default=0)

    def left(self, *, before: float) -> tuple[ExecutionId, ...]:
        """Return the executions that are over, or gone, and whose newest piece was copied before that time."""
        newest: dict[ExecutionId, float] = {}
        for row in self._rows.values():
            newest[row["execution_id"]] = max(row["at"], newest.get(row["execution_id"], row["at"]))
        over = {ExecutionState.COLLECTED, ExecutionState.REMOVED}
        states = {key: self._executions[key]["state"] for key in newest if key in self._executions}
        return tuple(key for key, at in newest.items() if at < before and (key not in states or states[key] in over))

    def forget(self, execution_id: ExecutionId) -> None:
        """Remove every piece of an execution."""
        for key in [key for key, row in self._rows.items() if row["execution_id"] == execution_id]:
            del self._rows[key]


class MemoryReplies(MemoryCollection[Reply]):
    """What requests made."""

    def forget(self, key: str, *, before: float, most: int) -> None:
        """Remove, of the first `most` and the one with this id, those that were made before that time."""
        for one in {key, *itertools.islice(self._rows, most)}:
            if one in self._rows and self._rows[one]["at"] < before:
                del self._rows[one]


class MemorySteps(_Reading[Step]):
    """The steps."""

    def __init__(self, work: _Tables) -> None:
        super().__init__(work.steps, plain.STEP, work.directions)
        self._work = work

    def add(self, *steps: Step) -> int:
        """Insert the steps whose `key` no other has, and return how many those were."""
        keys, before = {row["key"] for row in self._rows.values()}, len(self._rows)
        with _all_or_none(self._rows):
            for step in steps:
                if step.key in keys:
                    continue
                if step.id in self._rows:
                    raise ConflictError(f"The step {step.id} is there already.")
                self._keep(step)
                keys.add(step.key)
        return len(self._rows) - before

    def claim(
        self,
        side: Side,
        *,
        now: float,
        lease_s: float,
        direction_id: DirectionId | None = None,
        apart_from: frozenset[DirectionId] = frozenset(),
    ) -> Step | None:
        """Take the due step whose turn it is of a side whose direction and experiment are not held."""
        due = [row for row in self._rows.values() if row["side"] == side and self._is_due(row, now)]
        ours = [
            row
            for row in due
            if (direction_id in {None, row["direction_id"]} and row["direction_id"] not in apart_from)
            or row["name"] in CLEARING
        ]
        allowed = [row for row in ours if self.is_allowed(row, side)]
        if not allowed:
            return None
        oldest = min(allowed, key=lambda row: row["due_at"])
        # The oldest says whose turn it is; which of that tenant's steps is taken, their priorities.
        owners = self._work.directions
        tenant = owners[oldest["direction_id"]]["tenant"]
        mine = [row for row in allowed if owners[row["direction_id"]]["tenant"] == tenant]
        if not any(
            one["priority"] for one in owners.values() if one["tenant"] == tenant and one["state"] in plain.LIVE
        ):
            mine = [oldest]
        row = min(mine, key=lambda row: row["due_at"] - PRIORITY_S * owners[row["direction_id"]]["priority"])
        raised = {"fence": row["fence"] + 1, "tries": row["tries"] + 1, "lease_until": now + lease_s}
        self._rows[row["id"]] = {**row, **raised, "state": StepState.CLAIMED.value}
        return self.get(row["id"])

    @staticmethod
    def _is_due(row: Mapping[str, Any], now: float) -> bool:
        if row["state"] == StepState.DUE:
            return bool(row["due_at"] <= now)
        return bool(row["state"] == StepState.CLAIMED and row["lease_until"] <= now)

    def is_allowed(self, row: Mapping[str, Any], side: Side) -> bool:
        """Tell whether a step may be done at all, by what it belongs to."""
        direction = self._work.directions[row["direction_id"]]
        experiment = self._work.experiments.get(row["experiment_id"], {})
        if direction["state"] in plain.STOPPED:
            # What a stopped direction left in the engine is still cleared away, held or not.
            return side is Side.RUN
        if row["name"] in CLEARING:
            # Whoever waits for the machine's devices and room does not wait for a pause of somebody else's.
            return True
        if any(self._work.switches.get(key, {}).get("is_paused") for key in (PLATFORM, direction["tenant"])):
            return False
        return bool(direction["hold"] == Hold.NONE and experiment.get("hold", Hold.NONE) == Hold.NONE)

    def renew(self, step: Step, *, until: float) -> bool:
        """Lengthen the lease; False when the step is no longer this holder's."""
        row = self._rows.get(step.id)
        if row is None or row["fence"] != step.fence or row["state"] != StepState.CLAIMED:
            return False
        self._rows[step.id] = {**row, "lease_until": until}
        return True

    def finish(self, step: Step) -> bool:
        """Store the step's new state if its fence is still the newest."""
        row = self._rows.get(step.id)
        if row is None or row["fence"] != step.fence:
            return False
        self._keep(step)
        return True

    def wake(self, *, now: float) -> int:
        """Make due each waiting step whose executions are all collected; return how many."""
        over = {
            key
            for key, row in self._work.executions.items()
            if row["state"] in {ExecutionState.COLLECTED, ExecutionState.REMOVED}
        }
        waiting = [row for row in self._rows.values() if row["state"] == StepState.WAITING]
        woken = [row for row in waiting if over.issuperset(row["waits_for"])]
        for row in woken:
            self._rows[row["id"]] = {**row, "state": StepState.DUE.value, "due_at": now}
        return len(woken)

    def hasten(self, waited: str, tenant: TenantId, *, now: float, most: int) -> int:
        """Make due a tenant's oldest launches that would be due later and whose payload has `waited`, and others'."""
        directions, executions = self._work.directions, self._work.executions
        later = [
            row
            for row in self._rows.values()
            if (row["side"], row["state"], row["error"]) == (Side.RUN, StepState.DUE, "")
            and row["due_at"] > now
            and waited in row["payload"]
        ]

        def age(row: Mapping[str, Any]) -> float:
            made = executions[row["payload"]["execution"]]["created_at"]
            return float(made - PRIORITY_S * directions[row["direction_id"]]["priority"])

        later.sort(key=age)
        own = [row for row in later if directions[row["direction_id"]]["tenant"] == tenant]
        others = [row for row in later if directions[row["direction_id"]]["tenant"] != tenant]
        chosen = own[:most] + others[:most]
        for row in chosen:
            self._rows[row["id"]] = {**row, "due_at": now}
        return len(chosen)


class MemoryEvents:
    """The events."""

    def __init__(self, events: list[Event]) -> None:
        self._events = events

    def append(self, *events: Event) -> None:
        """Add events in this order; their `seq` are given here."""
        for event in events:
            row = {**plain.EVENT.row(event), "seq": len(self._events) + 1}
            self._events.append(plain.EVENT.value(row))

    def since(self, direction_id: DirectionId, seq: int = 0, limit: int = 1000) -> tuple[Event, ...]:
        """Return the events after `seq`."""
        later = [event for event in self._events[max(seq, 0) :] if event.direction_id == direction_id]
        return tuple(later[:limit])

    def newest(self, direction_id: DirectionId) -> int:
        """Return the `seq` of a direction's newest event; 0 where it has none."""
        return next((event.seq for event in reversed(self._events) if event.direction_id == direction_id), 0)


class MemoryAudit:
    """Who changed what."""

    def __init__(self, entries: list[AuditEntry]) -> None:
        self._entries = entries

    def append(self, *entries: AuditEntry) -> None:
        """Add entries in this order; their `seq` are given here."""
        for entry in entries:
            row = {**plain.AUDIT.row(entry), "seq": len(self._entries) + 1}
            self._entries.append(plain.AUDIT.value(row))

    def since(self, seq: int = 0, limit: int = 1000) -> tuple[AuditEntry, ...]:
        """Return the entries after `seq`."""
        return tuple(self._entries[max(seq, 0) :][:limit])

    def unsealed(self, limit: int = 1000) -> tuple[AuditEntry, ...]:
        """Return the first entries that have no seal yet."""
        return tuple(itertools.islice((entry for entry in self._entries if not entry.seal), limit))

    def last_seal(self) -> str:
        """Return the newest seal, or nothing where there is none."""
        return next((entry.seal for entry in reversed(self._entries) if entry.seal), "")

    def seal(self, seq: int, seal: str) -> None:
        """Set the seal of an entry that has none."""
        entry = self._entries[seq - 1]
        if entry.seal:
            raise ConflictError(f"The audit's entry {seq} is sealed already.")
        self._entries[seq - 1] = dataclasses.replace(entry, seal=seal)


class MemoryLedger:
    """What was spent."""

    def __init__(self, work: _Tables, tx: MemoryTransaction) -> None:
        self._entries = work.ledger
        self._balances = work.balances
        self._tx = tx

    def add(self, entry: LedgerEntry) -> None:
        """Add a line, and count it in its accounts; `ConflictError` when its id is there already."""
        if self.entry(entry.id):
            raise ConflictError(f"The ledger entry {entry.id} is there already.")
        self._entries.append(entry)
        for account in ledger.accounts(entry):
            self._balances[account] = ledger.plus(self.balance(account), entry)

    def entry(self, key: str) -> LedgerEntry | None:
        """Return the line with this id, or None."""
        return next((entry for entry in self._entries if entry.id == key), None)

    def of_call(self, call_id: str) -> tuple[LedgerEntry, ...]:
        """Return the lines of one call or execution, oldest first."""
        return tuple(entry for entry in self._entries if entry.call_id == call_id)

    def open_calls(self) -> tuple[LedgerEntry, ...]:
        """Return the reservations of model calls that no other line has closed, oldest first."""
        closed = {entry.call_id for entry in self._entries if entry.kind != "reserved"}
        return tuple(
            entry for entry in self._entries if entry.kind == "reserved" and entry.model and entry.call_id not in closed
        )

    def balance(self, account: str) -> Balance:
        """Return the sum over an account."""
        return self._balances.get(account) or Balance(id=account)

    def admission(self, claims: Claims, day: str) -> Admission | None:
        """Return how it stands with what a token names; None where there is no such direction."""
        tx = self._tx
        directions = tx.directions.find(id=claims.direction_id)
        if not directions:
            return None
        direction = directions[0]
        step = next(iter(tx.steps.find(id=claims.step)), None)
        tenant = next(iter(tx.tenants.find(id=direction.tenant)), None)
        sums = (self.balance(key) for key in (direction.tenant, ledger.day_account(direction.tenant, day)))
        total, of_day = (Balance(id=one.id, usd=one.usd, tokens=one.tokens) for one in sums)
        return Admission(
            tenant=direction.tenant,
            direction=direction.state,
            budget_usd=direction.budget_usd,
            budget_usd_per_experiment=direction.budget_usd_per_experiment,
            budget_usd_per_call=direction.budget_usd_per_call,
            is_killed=any(one.id in {PLATFORM, direction.tenant} for one in tx.switches.find(is_killed=True)),
            is_revoked=bool(tx.revocations.find(id=claims.id)),
            experiment=next((one.state for one in tx.experiments.find(id=claims.experiment_id or "")), None),
            step=step.state if step else None,
            fence=step.fence if step else None,
            quotas=tenant.quotas if tenant else {},
            token_usd=self.balance(claims.id).usd,
            experiment_usd=self.balance(claims.experiment_id or "").usd,
            direction_usd=self.balance(direction.id).usd,
            total=total,
            day=of_day,
        )

    def spent_usd(self, direction_id: DirectionId) -> float:
        """Return the sum over a direction, open reservations included."""
        return self.balance(direction_id).usd

    def entries(self, direction_id: DirectionId) -> tuple[LedgerEntry, ...]:
        """Return the lines of a direction, oldest first."""
        return tuple(entry for entry in self._entries if entry.direction_id == direction_id)


class FixedClock:
    """A clock that moves only when told, and ids that count up; for tests."""

    def __init__(self, now: float = 1_700_000_000.0) -> None:
        self._now = now
        self._count = 0
        self._lock = threading.Lock()

    def now(self) -> float:
        """Return the time it was set to."""
        return self._now

    def advance(self, seconds: float) -> None:
        """Move the time on."""
        self._now += seconds

    def new_id(self, prefix: str) -> str:
        """Return `prefix_` and the next number as a lower-case ULID."""
        with self._lock:
            self._count += 1
            return f"{prefix}_{str(ULID.from_int(self._count)).lower()}"
