"""Putting steps into the table."""

from __future__ import annotations

from collections.abc import Iterable

from fumehood.domain.step import Side, Step, StepState
from fumehood.ports import Clock, Transaction
from fumehood.services.change import Next

RUN_SIDE = frozenset({"launch", "collect", "remove", "record"})
"""Steps that need the container engine or the signing key; every other step is the write side's."""


def enqueue(tx: Transaction, clock: Clock, steps: Iterable[Next]) -> None:
    """Insert steps; one whose key is known already changes nothing."""
    now = clock.now()
    tx.steps.add(
        *(
            Step(
                id=clock.new_id("step"),
                key=asked.key,
                name=asked.name,
                side=Side.RUN if asked.name in RUN_SIDE else Side.WRITE,
                direction_id=asked.direction_id,
                experiment_id=asked.experiment_id,
                state=StepState.WAITING if asked.waits_for else StepState.DUE,
                due_at=now + asked.delay_s,
                payload=dict(asked.payload),
                waits_for=asked.waits_for,
            )
            for asked in steps
        )
    )
