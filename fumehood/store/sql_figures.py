"""The figures of an SQL database: every table is counted where it lies."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Table, and_, case, exists, func, or_, select

from fumehood.domain.direction import Hold
from fumehood.domain.execution import ExecutionState, Kind, Verdict
from fumehood.domain.figures import ExecutionCount, Figures, Spending, Standing, StateCount, StepCount, Taking
from fumehood.domain.step import CLEARING, Side, StepState
from fumehood.domain.tenant import PLATFORM
from fumehood.store import tables
from fumehood.store.plain import STOPPED

LIVE = (StepState.WAITING.value, StepState.DUE.value, StepState.CLAIMED.value)
CLOSING = ("settled", "released")


def read(connection: Connection, now: float) -> Figures:
    """Return the figures of this moment."""
    return Figures(
        steps=_steps(connection, now),
        directions=_states(connection, tables.DIRECTIONS),
        experiments=_states(connection, tables.EXPERIMENTS),
        executions=_executions(connection),
        spending=_spending(connection),
        takings=_takings(connection),
        gpus_held=_gpus_held(connection),
    )


def _gpus_held(connection: Connection) -> int:
    leases = tables.LEASES.c
    return len(
        {one for gpus in connection.scalars(select(leases.gpus).where(leases.ended_at.is_(None))) for one in gpus}
    )


def _steps(connection: Connection, now: float) -> tuple[StepCount, ...]:
    steps, directions, experiments = tables.STEPS.c, tables.DIRECTIONS.c, tables.EXPERIMENTS.c
    stopped = directions.state.in_(STOPPED)
    free = and_(
        directions.hold == Hold.NONE.value, or_(experiments.hold.is_(None), experiments.hold == Hold.NONE.value)
    )
    paused = exists().where(tables.SWITCHES.c.is_paused, tables.SWITCHES.c.id.in_([PLATFORM, directions.tenant]))
    free = or_(steps.name.in_(CLEARING), and_(free, ~paused))
    # As a claim sees it.
    allowed = or_(and_(steps.side == Side.RUN.value, stopped), and_(free, ~stopped))
    standing = case(
        (steps.state == StepState.WAITING.value, Standing.WAITING.value),
        (and_(steps.state == StepState.CLAIMED.value, steps.lease_until > now), Standing.CLAIMED.value),
        (~allowed, Standing.HELD.value),
        (and_(steps.state == StepState.DUE.value, steps.due_at > now), Standing.LATER.value),
        else_=Standing.DUE.value,
    ).label("standing")
    query = (
        select(steps.side, standing, func.count(), func.min(steps.due_at))
        .join_from(tables.STEPS, tables.DIRECTIONS, directions.id == steps.direction_id)
        .outerjoin(tables.EXPERIMENTS, experiments.id == steps.experiment_id)
        # Both columns of the index, so that what is done is never looked at.
        .where(steps.side.in_([side.value for side in Side]), steps.state.in_(LIVE))
        .group_by(steps.side, standing)
        .order_by(steps.side, standing)
    )
    return tuple(
        StepCount(side=Side(side), standing=Standing(stands), number=number, oldest_due_at=oldest)
        for side, stands, number, oldest in connection.execute(query)
    )


def _states(connection: Connection, table: Table) -> tuple[StateCount, ...]:
    state, hold = table.c.state, table.c.hold
    query = select(state, hold, func.count()).group_by(state, hold).order_by(state, hold)
    return tuple(StateCount(state=row[0], hold=row[1], number=row[2]) for row in connection.execute(query))


def _executions(connection: Connection) -> tuple[ExecutionCount, ...]:
    rows = tables.EXECUTIONS.c
    columns = (rows.kind, rows.state, func.coalesce(rows.verdict, "").label("ended"))
    query = select(*columns, func.count()).group_by(rows.kind, rows.state, rows.verdict).order_by(*columns)
    return tuple(
        ExecutionCount(
            kind=Kind(kind),
            state=ExecutionState(state),
            verdict=Verdict(verdict) if verdict else None,
            number=number,
        )
        for kind, state, verdict, number in connection.execute(query)
    )


def _spending(connection: Connection) -> tuple[Spending, ...]:
    lines: Any = tables.LEDGER.c
    over = lines.call_id.in_(select(lines.call_id).where(lines.kind.in_(CLOSING)))
    query = (
        select(
            lines.model,
            lines.role,
            func.sum(case((over, lines.usd), else_=0.0)),
            func.sum(case((over, 0.0), else_=lines.usd)),
            func.sum(lines.input_tokens),
            func.sum(lines.cached_tokens),
            func.sum(lines.output_tokens),
        )
        # An execution's lines name no model.
        .where(lines.model != "")
        .group_by(lines.model, lines.role)
        .order_by(lines.model, lines.role)
    )
    return tuple(
        Spending(
            model=model,
            role=role,
            usd=float(usd),
            reserved_usd=float(reserved),
            input_tokens=int(given),
            cached_tokens=int(cached),
            output_tokens=int(written),
        )
        for model, role, usd, reserved, given, cached, written in connection.execute(query)
    )


def _takings(connection: Connection) -> tuple[Taking, ...]:
    lines: Any = tables.LEDGER.c
    ended: Any = tables.LEDGER.alias().c
    # The fence is part of both lines' ids: what was lost and is tried again has a reservation that is not settled yet.
    is_over = lines.id.in_(select(func.replace(ended.id, ":settled", ":reserved")).where(ended.kind == "settled"))
    query = (
        select(lines.role, func.sum(lines.cpu_s), func.sum(lines.gpu_s))
        .where(lines.model == "", or_(lines.kind == "settled", is_over))
        .group_by(lines.role)
        .order_by(lines.role)
    )
    return tuple(
        Taking(kind=Kind(role), cpu_s=float(cpu_s), gpu_s=float(gpu_s))
        for role, cpu_s, gpu_s in connection.execute(query)
    )
