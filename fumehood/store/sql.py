"""The store in an SQL database: SQLite embedded, PostgreSQL where there are services."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, Generic, TypeVar

from sqlalchemy import (
    ColumnElement,
    Connection,
    Select,
    Subquery,
    Table,
    UniqueConstraint,
    and_,
    delete,
    exists,
    func,
    or_,
    select,
    true,
    union_all,
    update,
)
from sqlalchemy.exc import IntegrityError

from fumehood.domain import ledger
from fumehood.domain.admission import Admission
from fumehood.domain.audit import AuditEntry
from fumehood.domain.catalogue import Entry
from fumehood.domain.direction import LEAST_PRIORITY, MOST_PRIORITY, PRIORITY_S, Direction, Hold
from fumehood.domain.execution import ExecutionState
from fumehood.domain.experiment import Execution, Experiment, Run
from fumehood.domain.feedback import Feedback
from fumehood.domain.figures import Figures
from fumehood.domain.idea import Idea
from fumehood.domain.ids import DirectionId, ExecutionId, TenantId
from fumehood.domain.ledger import CallText, Claims, LedgerEntry, ModelCall
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
from fumehood.store import plain, sql_figures, statements, tables
from fumehood.store.engine import Version, connect
from fumehood.store.failures import typed
from fumehood.store.migrate import upgrade
from fumehood.store.plain import Shape
from fumehood.store.sql_log import SqlLog

T = TypeVar("T")


class SqlStore:
    """A database at an SQLAlchemy URL whose tables are there (`upgrade`, or `open_store`).

    Usable from any number of threads and processes; after a fork, a child opens its own.
    """

    def __init__(self, url: str) -> None:
        self._engine = connect(url)
        self._version = Version(self._engine)
        self._alone = plain.Alone()

    @contextmanager
    def begin(self, *, write: bool = True, durable: bool = True) -> Iterator[SqlTransaction]:
        """Open a transaction; with `write=False` it reads one state of things, waits for nobody and may not write.

        One that is not `durable` does not wait for the disk.
        """
        with self._alone.inside(), typed(write=write), self._engine.connect() as connection:
            connection.execution_options(fumehood_write=write, fumehood_durable=durable)
            with connection.begin():
                yield SqlTransaction(connection)

    def version(self) -> int:
        """Return a number that changes with every commit."""
        with typed(write=False):
            return self._version.read()

    def close(self) -> None:
        """Close every connection that is not in use."""
        self._version.close()
        self._engine.dispose()


def open_store(url: str) -> SqlStore:
    """Bring the database's tables up to date and open it."""
    upgrade(url)
    return SqlStore(url)


class SqlTransaction:
    """All collections on one connection."""

    def __init__(self, connection: Connection) -> None:
        self.directions: Collection[Direction] = SqlCollection(connection, tables.DIRECTIONS, plain.DIRECTION)
        self.ideas: Collection[Idea] = SqlCollection(connection, tables.IDEAS, plain.IDEA)
        self.experiments: Collection[Experiment] = SqlCollection(connection, tables.EXPERIMENTS, plain.EXPERIMENT)
        self.runs: Collection[Run] = SqlCollection(connection, tables.RUNS, plain.RUN)
        self.executions: Collection[Execution] = SqlCollection(connection, tables.EXECUTIONS, plain.EXECUTION)
        self.calls: Collection[ModelCall] = SqlCollection(connection, tables.CALLS, plain.CALL)
        self.call_texts: Collection[CallText] = SqlCollection(connection, tables.CALL_TEXTS, plain.CALL_TEXT)
        self.tenants: Collection[Tenant] = SqlCollection(connection, tables.TENANTS, plain.TENANT)
        self.keys: Collection[Key] = SqlCollection(connection, tables.KEYS, plain.KEY)
        self.switches: Collection[Switch] = SqlCollection(connection, tables.SWITCHES, plain.SWITCH)
        self.revocations: Revocations = SqlRevocations(connection, tables.REVOCATIONS, plain.REVOCATION)
        self.replies: Replies = SqlReplies(connection, tables.REPLIES, plain.REPLY)
        self.feedback: Collection[Feedback] = SqlCollection(connection, tables.FEEDBACK, plain.FEEDBACK)
        self.catalogue: Collection[Entry] = SqlCollection(connection, tables.CATALOGUE, plain.CATALOGUE)
        self.leases: Leases = SqlLeases(connection, tables.LEASES, plain.LEASE)
        self.peaks: Collection[Peak] = SqlCollection(connection, tables.PEAKS, plain.PEAK)
        self.outputs: Outputs = SqlOutputs(connection, tables.OUTPUTS, plain.OUTPUT)
        self.steps: Steps = SqlSteps(connection, tables.STEPS, plain.STEP)
        self.events: Events = SqlEvents(connection)
        self.ledger: Ledger = SqlLedger(connection, tables.LEDGER, plain.ENTRY)
        self.audit: Audit = SqlAudit(connection)
        self.log: Log = SqlLog(connection)
        self.workers: Workers = SqlWorkers(connection, tables.WORKERS, plain.WORKER)
        self._connection = connection

    def figures(self, now: float) -> Figures:
        """Count everything that there is."""
        return sql_figures.read(self._connection, now)


class _Reading(Generic[T]):
    def __init__(self, connection: Connection, table: Table, shape: Shape[T]) -> None:
        self._connection = connection
        self._table = table
        self._shape = shape

    def get(self, key: str) -> T:
        """Return the value; `NotFoundError` when there is none."""
        query = statements.found(self._table, self._dialect, ("id",))
        rows = query.rows(self._connection, {"id": key})
        if not rows:
            raise NotFoundError(f"There is no {self._shape.noun} {key}.")
        return self._shape.value(rows[0])

    def find(self, **equal: object) -> tuple[T, ...]:
        """Return the values whose columns equal these, in the order they were first saved."""
        wanted = self._shape.wanted(equal)
        given = {name: value for name, value in wanted.items() if value is not None}
        absent = tuple(name for name in wanted if name not in given)
        query = statements.found(self._table, self._dialect, tuple(given), absent)
        return tuple(self._shape.value(row) for row in query.rows(self._connection, given))

    def page(self, after: str | None, limit: int, **equal: object) -> tuple[T, ...]:
        """Return at most `limit` of what `find` returns, from the one that follows the id `after`."""
        columns = self._table.c
        query = select(self._table).order_by(columns.row).limit(limit)
        for name, wanted in self._shape.wanted(equal).items():
            query = query.where(columns[name] == wanted)
        if after is not None:
            row = self._connection.execute(select(columns.row).where(columns.id == after)).scalar_one_or_none()
            if row is None:
                raise NotFoundError(f"There is no {self._shape.noun} {after}.")
            query = query.where(columns.row > row)
        return tuple(self._shape.value(row) for row in self._connection.execute(query).mappings())  # type: ignore[arg-type]

    def count(self, **equal: object) -> int:
        """Return how many values `find` would return."""
        query = select(func.count()).select_from(self._table)
        for name, wanted in self._shape.wanted(equal).items():
            query = query.where(self._table.c[name] == wanted)
        return int(self._connection.execute(query).scalar_one())

    @property
    def _dialect(self) -> str:
        return self._connection.dialect.name

    @contextmanager
    def _kept(self, rows: Sequence[Mapping[str, Any]]) -> Iterator[None]:
        # All of them or none, and what fails takes nothing else of the transaction with it. So it is without more ado
        # for one row in SQLite, where a statement that fails leaves no trace, and for rows that clash with no other.
        is_whole = (self._dialect == "sqlite" and len(rows) == 1) or _stands_alone(self._table)
        try:
            with nullcontext() if is_whole else self._connection.begin_nested():
                yield
        except IntegrityError as error:
            ids = ", ".join(row["id"] for row in rows[:3]) + (", ..." if rows[3:] else "")
            raise ConflictError(
                f"The {self._shape.noun} {ids} is there already, or belongs to a direction that is not."
            ) from error


@functools.cache
def _stands_alone(table: Table) -> bool:
    """Whether a row of the table needs none of another, and is told apart by its id alone."""
    said = [one for one in table.constraints if isinstance(one, UniqueConstraint)]
    told_apart = {column for column in table.columns if column.unique}.union(*(one.columns for one in said))
    return told_apart == {table.c.id} and not any(one.unique for one in table.indexes) and not table.foreign_keys


class SqlCollection(_Reading[T]):
    """The rows of one kind."""

    def save(self, *values: T) -> None:
        """Insert the values, or replace those with their ids."""
        rows = [self._shape.row(value) for value in values]
        if not rows:
            return
        with self._kept(rows):
            statements.saved(self._table, self._dialect, tuple(rows[0])).run(self._connection, *rows)


class SqlRevocations(SqlCollection[Revocation]):
    """The table of tokens that open nothing any more."""

    def forget(self, *, before: float) -> None:
        """Remove what was revoked before that time."""
        self._connection.execute(delete(self._table).where(self._table.c.at < before))


class SqlLeases(SqlCollection[Lease]):
    """The table of what executions hold, and held, of the machine."""

    def during(self, since: float, until: float) -> tuple[Lease, ...]:
        """Return those that held something at any time between these two."""
        columns = self._table.c
        held = or_(columns.ended_at.is_(None), columns.ended_at >= since)
        query = select(self._table).where(held, columns.since <= until).order_by(columns.row)
        return tuple(self._shape.value(row) for row in self._connection.execute(query).mappings())  # type: ignore[arg-type]


class SqlReplies(SqlCollection[Reply]):
    """The table of what requests made."""

    def forget(self, key: str, *, before: float, most: int) -> None:
        """Remove, of the first `most` and the one with this id, those that were made before that time."""
        columns = self._table.c
        # By place and not by age, which has no index: all are looked at in turn, as they come to the front.
        first = select(columns.row).order_by(columns.row).limit(most).subquery()
        looked_at = or_(columns.id == key, columns.row.in_(select(first.c.row)))
        self._connection.execute(delete(self._table).where(looked_at, columns.at < before))


class SqlSteps(_Reading[Step]):
    """The table of steps."""

    def add(self, *steps: Step) -> int:
        """Insert the steps whose `key` no other has, and return how many those were."""
        rows = [self._shape.row(step) for step in steps]
        if not rows:
            return 0
        with self._kept(rows):
            if len(rows) == 1:
                once = statements.inserted_once(self._table, self._dialect, "key", tuple(rows[0]))
                return len(once.run(self._connection, *rows))
            many = statements.many_inserted_once(self._table, self._dialect, "key")
            return len(self._connection.execute(many, rows).all())

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
        steps = self._table.c
        chosen = self._chosen(side, now, self._ours(direction_id, apart_from))
        if chosen is None:
            return None
        row = self._connection.execute(
            update(self._table)
            # Asked of the row itself once more, so that of two claims at once the later finds it taken.
            .where(steps.id == chosen, or_(self._is_due(now), self._is_overdue(now)))
            .values(
                state=StepState.CLAIMED.value,
                fence=steps.fence + 1,
                tries=steps.tries + 1,
                lease_until=now + lease_s,
            )
            .returning(*self._table.columns)
        )
        found = row.mappings().one_or_none()
        return None if found is None else self._shape.value(found)  # type: ignore[arg-type]

    def _is_due(self, now: float) -> ColumnElement[bool]:
        return and_(self._table.c.state == StepState.DUE.value, self._table.c.due_at <= now)

    def _is_overdue(self, now: float) -> ColumnElement[bool]:
        return and_(self._table.c.state == StepState.CLAIMED.value, self._table.c.lease_until <= now)

    def _ours(self, direction_id: DirectionId | None, apart_from: frozenset[DirectionId]) -> ColumnElement[bool]:
        """Return which directions' steps may be taken; those that clear the machine always may."""
        steps = self._table.c
        asked = true() if direction_id is None else steps.direction_id == direction_id
        if apart_from:
            asked = and_(asked, steps.direction_id.not_in(sorted(apart_from)))
        return or_(asked, steps.name.in_(CLEARING))

    def _chosen(self, side: Side, now: float, ours: ColumnElement[bool]) -> str | None:
        """Return the step whose turn it is: the oldest says of which tenant, priorities which of that tenant's."""
        steps, directions, others = self._table.c, tables.DIRECTIONS.c, tables.DIRECTIONS.alias()
        has_priorities = exists().where(
            others.c.tenant == directions.tenant, others.c.state.in_(plain.LIVE), others.c.priority != 0
        )
        oldest = self._connection.execute(
            select(steps.id, steps.due_at, directions.tenant, has_priorities)
            .join_from(self._table, tables.DIRECTIONS, directions.id == steps.direction_id)
            .where(steps.id == self._oldest(side, now, ours))
        ).one_or_none()
        if oldest is None or not oldest[3]:
            return None if oldest is None else str(oldest[0])
        # What is so much younger than the oldest is no priority's to bring forward.
        reach = oldest[1] + PRIORITY_S * (MOST_PRIORITY - LEAST_PRIORITY)
        mine = and_(ours, directions.tenant == oldest[2], steps.due_at <= reach)
        query = self._allowed(side, or_(self._is_due(now), self._is_overdue(now)), mine)
        counted = steps.due_at - PRIORITY_S * directions.priority
        return self._connection.execute(query.order_by(counted, steps.row).limit(1)).scalars().first()

    def _oldest(self, side: Side, now: float, ours: ColumnElement[bool]) -> Any:
        # Two questions, each with an index in the order of its answer, so that a long queue is not read to its end.
        first = [self._first(side, condition, ours) for condition in (self._is_due(now), self._is_overdue(now))]
        both = union_all(*(select(one) for one in first)).subquery()
        return select(both.c.id).order_by(both.c.due_at, both.c.row).limit(1).scalar_subquery()

    def _first(self, side: Side, condition: ColumnElement[bool], ours: ColumnElement[bool]) -> Subquery:
        steps = self._table.c
        return self._allowed(side, condition, ours).order_by(steps.due_at, steps.row).limit(1).subquery()

    def _allowed(
        self, side: Side, condition: ColumnElement[bool], ours: ColumnElement[bool]
    ) -> Select[tuple[Any, Any, Any]]:
        steps, directions, experiments = self._table.c, tables.DIRECTIONS.c, tables.EXPERIMENTS.c
        free = and_(
            directions.hold == Hold.NONE.value,
            or_(experiments.hold.is_(None), experiments.hold == Hold.NONE.value),
        )
        paused = exists().where(tables.SWITCHES.c.is_paused, tables.SWITCHES.c.id.in_([PLATFORM, directions.tenant]))
        # Whoever waits for the machine's devices and room does not wait for a pause of somebody else's.
        free = or_(steps.name.in_(CLEARING), and_(free, ~paused))
        stopped = directions.state.in_(plain.STOPPED)
        # What a stopped direction left in the engine is still cleared away, held or not; nothing more is written.
        allowed = or_(stopped, free) if side is Side.RUN else and_(~stopped, free)
        return (
            select(steps.id, steps.due_at, steps.row)
            .join_from(self._table, tables.DIRECTIONS, directions.id == steps.direction_id)
            .outerjoin(tables.EXPERIMENTS, experiments.id == steps.experiment_id)
            .where(steps.side == side.value, condition, allowed, ours)
        )

    def renew(self, step: Step, *, until: float) -> bool:
        """Lengthen the lease; False when the step is no longer this holder's."""
        steps = self._table.c
        mine = and_(steps.id == step.id, steps.fence == step.fence, steps.state == StepState.CLAIMED.value)
        return self._connection.execute(update(self._table).where(mine).values(lease_until=until)).rowcount == 1

    def finish(self, step: Step) -> bool:
        """Store the step's new state if its fence is still the newest."""
        mine = and_(self._table.c.id == step.id, self._table.c.fence == step.fence)
        return self._connection.execute(update(self._table).where(mine).values(self._shape.row(step))).rowcount == 1

    def wake(self, *, now: float) -> int:
        """Make due each waiting step whose executions are all collected; return how many."""
        steps, executions = self._table.c, tables.EXECUTIONS.c
        waiting = and_(steps.side.in_([side.value for side in Side]), steps.state == StepState.WAITING.value)
        waits = {key: set(of) for key, of in self._connection.execute(select(steps.id, steps.waits_for).where(waiting))}
        if not waits:
            return 0
        ended = executions.state.in_([ExecutionState.COLLECTED.value, ExecutionState.REMOVED.value])
        asked = select(executions.id).where(executions.id.in_(set().union(*waits.values())), ended)
        over = set(self._connection.execute(asked).scalars())
        woken = [key for key, of in waits.items() if of <= over]
        due = update(self._table).where(steps.id.in_(woken), waiting)
        return self._connection.execute(due.values(state=StepState.DUE.value, due_at=now)).rowcount if woken else 0

    def hasten(self, waited: str, tenant: TenantId, *, now: float, most: int) -> int:
        """Make due a tenant's oldest launches that would be due later and whose payload has `waited`, and others'."""
        steps, executions, directions = self._table.c, tables.EXECUTIONS.c, tables.DIRECTIONS.c
        later = and_(steps.side == Side.RUN.value, steps.state == StepState.DUE.value, steps.due_at > now)
        waits = and_(later, steps.error == "", steps.payload[waited].as_integer().is_not(None))
        query = (
            select(steps.id)
            .join_from(self._table, tables.EXECUTIONS, executions.id == steps.payload["execution"].as_string())
            .join(tables.DIRECTIONS, directions.id == steps.direction_id)
            .order_by(executions.created_at - PRIORITY_S * directions.priority, steps.row)
            .limit(most)
        )
        found: list[str] = []
        for whose in (directions.tenant == tenant, directions.tenant != tenant):
            found += self._connection.execute(query.where(waits, whose)).scalars()
        sooner = update(self._table).where(steps.id.in_(found), later)
        return self._connection.execute(sooner.values(due_at=now)).rowcount if found else 0


def _append(connection: Connection, table: Table, rows: Sequence[dict[str, Any]]) -> None:
    for row in rows:
        # The database counts it.
        del row["seq"]
    if rows:
        connection.execute(table.insert(), rows)


class SqlEvents:
    """The table of events."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def append(self, *events: Event) -> None:
        """Add events in this order; their `seq` are given here."""
        _append(self._connection, tables.EVENTS, [plain.EVENT.row(event) for event in events])

    def since(self, direction_id: DirectionId, seq: int = 0, limit: int = 1000) -> tuple[Event, ...]:
        """Return the events after `seq`."""
        events = tables.EVENTS.c
        query = select(tables.EVENTS).where(events.direction_id == direction_id, events.seq > seq)
        rows = self._connection.execute(query.order_by(events.seq).limit(limit)).mappings()
        return tuple(plain.EVENT.value(row) for row in rows)  # type: ignore[arg-type]

    def newest(self, direction_id: DirectionId) -> int:
        """Return the `seq` of a direction's newest event; 0 where it has none."""
        events = tables.EVENTS.c
        query = select(func.max(events.seq)).where(events.direction_id == direction_id)
        return int(self._connection.execute(query).scalar_one() or 0)


class SqlAudit:
    """The table of who changed what."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def append(self, *entries: AuditEntry) -> None:
        """Add entries in this order; their `seq` are given here."""
        _append(self._connection, tables.AUDIT, [plain.AUDIT.row(entry) for entry in entries])

    def since(self, seq: int = 0, limit: int = 1000) -> tuple[AuditEntry, ...]:
        """Return the entries after `seq`."""
        return self._read(tables.AUDIT.c.seq > seq, limit)

    def unsealed(self, limit: int = 1000) -> tuple[AuditEntry, ...]:
        """Return the first entries that have no seal yet."""
        return self._read(tables.AUDIT.c.seal == "", limit)

    def last_seal(self) -> str:
        """Return the newest seal, or nothing where there is none."""
        query = select(tables.AUDIT.c.seal).where(tables.AUDIT.c.seal != "").order_by(tables.AUDIT.c.seq.desc())
        return str(self._connection.execute(query.limit(1)).scalar_one_or_none() or "")

    def seal(self, seq: int, seal: str) -> None:
        """Set the seal of an entry that has none."""
        audit = tables.AUDIT.c
        done = update(tables.AUDIT).where(audit.seq == seq, audit.seal == "").values(seal=seal)
        if self._connection.execute(done).rowcount != 1:
            raise ConflictError(f"The audit's entry {seq} is sealed already.")

    def _read(self, which: ColumnElement[bool], limit: int) -> tuple[AuditEntry, ...]:
        query = select(tables.AUDIT).where(which).order_by(tables.AUDIT.c.seq).limit(limit)
        return tuple(plain.AUDIT.value(row) for row in self._connection.execute(query).mappings())  # type: ignore[arg-type]


class SqlLedger(_Reading[LedgerEntry]):
    """The table of what was spent, and that of its sums."""

    def add(self, entry: LedgerEntry) -> None:
        """Add a line, and count it in its accounts; `ConflictError` when its id is there already."""
        row = self._shape.row(entry)
        once = statements.inserted_once(self._table, self._dialect, "id", tuple(row))
        if not once.rows(self._connection, row):
            raise ConflictError(f"The ledger entry {entry.id} is there already.")
        more, accounts = plain.BALANCE.row(ledger.plus(Balance(id=""), entry)), ledger.accounts(entry)
        query = statements.added(tables.BALANCES, self._dialect, tuple(more), len(accounts))
        query.run(self._connection, more | {f"id_{at}": account for at, account in enumerate(accounts)})

    def entry(self, key: str) -> LedgerEntry | None:
        """Return the line with this id, or None."""
        return next(iter(self.find(id=key)), None)

    def of_call(self, call_id: str) -> tuple[LedgerEntry, ...]:
        """Return the lines of one call or execution, oldest first."""
        return self.find(call_id=call_id)

    def open_calls(self) -> tuple[LedgerEntry, ...]:
        """Return the reservations of model calls that no other line has closed, oldest first."""
        reserved, other = self._table.c, self._table.alias().c
        closed = exists().where(other.call_id == reserved.call_id, other.kind != "reserved")
        # An execution's reservation names no model.
        query = select(self._table).where(reserved.kind == "reserved", reserved.model != "", ~closed)
        rows = self._connection.execute(query.order_by(reserved.row)).mappings()
        return tuple(self._shape.value(row) for row in rows)  # type: ignore[arg-type]

    def balance(self, account: str) -> Balance:
        """Return the sum over an account."""
        found = SqlCollection(self._connection, tables.BALANCES, plain.BALANCE).find(id=account)
        return found[0] if found else Balance(id=account)

    def admission(self, claims: Claims, day: str) -> Admission | None:
        """Return how it stands with what a token names; None where there is no such direction."""
        named = {
            "direction": claims.direction_id,
            "experiment": claims.experiment_id or "",
            "step": claims.step,
            "token": claims.id,
            "day": day,
        }
        found = statements.admission(self._dialect).rows(self._connection, named)
        return plain.admission(found[0], day) if found else None

    def spent_usd(self, direction_id: DirectionId) -> float:
        """Return the sum over a direction, open reservations included."""
        return self.balance(direction_id).usd

    def entries(self, direction_id: DirectionId) -> tuple[LedgerEntry, ...]:
        """Return the lines of a direction, oldest first."""
        return self.find(direction_id=direction_id)


class SqlOutputs(SqlCollection[Output]):
    """The table of what programs print."""

    def after(self, execution_id: ExecutionId, fence: int, offset: int, limit: int) -> tuple[Output, ...]:
        """Return at most `limit` pieces that are not empty and begin at `offset` or later, in order."""
        columns = self._table.c
        query = select(self._table).where(self._of(execution_id, fence), columns.offset >= offset)
        rows = self._connection.execute(
            query.where(columns.end > columns.offset).order_by(columns.offset).limit(limit)
        ).mappings()
        return tuple(self._shape.value(row) for row in rows)  # type: ignore[arg-type]

    def end(self, execution_id: ExecutionId, fence: int) -> int:
        """Return where the next piece begins, in bytes."""
        query = select(func.max(self._table.c.end)).where(self._of(execution_id, fence))
        return int(self._connection.execute(query).scalar_one() or 0)

    def left(self, *, before: float) -> tuple[ExecutionId, ...]:
        """Return the executions that are over, or gone, and whose newest piece was copied before that time."""
        columns, executions = self._table.c, tables.EXECUTIONS.c
        live = executions.state.not_in([ExecutionState.COLLECTED.value, ExecutionState.REMOVED.value])
        is_live = exists().where(executions.id == columns.execution_id, live)
        query = select(columns.execution_id).where(~is_live).group_by(columns.execution_id)
        return tuple(self._connection.execute(query.having(func.max(columns.at) < before)).scalars())

    def forget(self, execution_id: ExecutionId) -> None:
        """Remove every piece of an execution."""
        self._connection.execute(delete(self._table).where(self._table.c.execution_id == execution_id))

    def _of(self, execution_id: ExecutionId, fence: int) -> ColumnElement[bool]:
        return and_(self._table.c.execution_id == execution_id, self._table.c.fence == fence)


class SqlWorkers(SqlCollection[Worker]):
    """The table of worker processes."""

    def forget(self, *, before: float) -> None:
        """Remove those that were last seen before that time."""
        self._connection.execute(delete(self._table).where(self._table.c.seen_at < before))
