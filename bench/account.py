"""What is asked of an installation once its work is over: by its database, its sandbox and the machine."""

from __future__ import annotations

import collections
import json
import os
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from fumehood.domain.execution import ExecutionState
from fumehood.domain.experiment import Execution
from fumehood.domain.ids import container_name
from fumehood.domain.step import StepState
from fumehood.errors import TamperedError
from fumehood.ports import Transaction
from fumehood.services import audit
from tests import leaks
from tests.installation import Installation

LOOK_EVERY_S = 0.01
CLEARED_WITHIN_S = 90.0
"""A remainder is reaped when it is a minute old."""
ONCE = {"prepare": 2, "run": 2, "evaluate": 2, "plot": 1, "compile": 1}
"""The executions of a direction that `tests.installation.ASKED` asks for, where nothing is done twice."""


class Starts:
    """Writes down each program that the sandbox begins, by the supervisors' own files, for as long as it looks."""

    def __init__(self, executions: Path) -> None:
        self._executions = executions
        self._seen: set[tuple[str, float]] = set()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def seen(self) -> Mapping[str, int]:
        """Return how often each execution's program was begun."""
        return collections.Counter(name for name, _ in self._seen)

    def _look(self) -> None:
        while not self._done.wait(LOOK_EVERY_S):
            for place in self._executions.glob("*/started.json"):
                # It may be written, or removed, at this moment.
                with suppress(OSError, ValueError, KeyError):
                    self._seen.add((place.parent.name, json.loads(place.read_bytes())["at"]))


class Account:
    """The questions, and what was wrong with each answer."""

    def __init__(self, installation: Installation) -> None:
        self._installation = installation

    def wait_for_the_last(self) -> None:
        """Return when every execution is removed and nothing of one is on the machine."""
        self._installation.until(self._is_cleared, CLEARED_WITHIN_S, "every execution is cleared away", tending=True)

    def _is_cleared(self) -> bool:
        with self._installation.store.begin(write=False) as tx:
            rows = tx.executions.find()
        state = self._installation.state
        return all(row.state is ExecutionState.REMOVED for row in rows) and not (
            leaks.left(state) or leaks.recorded(state)
        )

    def wrong(self, submitted: Sequence[str], starts: Mapping[str, int]) -> list[str]:
        """Return what does not hold in the database, one sentence each."""
        store = self._installation.store
        with store.begin(write=False) as tx:
            found = [*directions(tx, submitted), *done_once(tx, starts), *given_back(tx)]
            live = [step for state in (StepState.DUE, StepState.CLAIMED) for step in tx.steps.find(state=state)]
            found += [f"the step {step.name} of {step.direction_id} is {step.state}" for step in live]
        try:
            audit.verify(store)
        except TamperedError as error:
            found.append(str(error))
        return found

    def left(self) -> list[str]:
        """Return what is left on the machine once the processes are gone."""
        state = self._installation.state
        found = {**leaks.left(state), **leaks.recorded(state)}
        found["scratch"] = [str(path) for path in (state / "tmp").glob("*")]
        found["processes"] = [*found.get("processes", []), *_heirs(state)]
        return [f"left: {kind}: {', '.join(things)}" for kind, things in found.items() if things]

    def figures(self, starts: Mapping[str, int]) -> dict[str, Any]:
        """Return what there was, counted."""
        with self._installation.store.begin(write=False) as tx:
            ends = collections.Counter(str(one.state) for one in tx.directions.find())
            rows = tx.executions.find()
            steps = tx.steps.find()
        kinds = collections.Counter(str(row.kind) for row in rows)
        verdicts = collections.Counter(str(row.outcome.verdict) for row in rows if row.outcome)
        return {
            "ends": dict(sorted(ends.items())),
            "executions": dict(sorted(kinds.items())),
            "verdicts": dict(sorted(verdicts.items())),
            "starts_seen": sum(starts.values()),
            "begun_again": sum(row.losses for row in rows),
            "steps": len(steps),
            "steps_done_again": sum(step.tries > 1 for step in steps),
        }  # fmt: skip


def directions(tx: Transaction, submitted: Sequence[str]) -> list[str]:
    """Return the directions that are not there once, or did not end well."""
    known = {one.id: one for one in tx.directions.find()}
    found = [f"the direction {one} was accepted and is not there" for one in submitted if one not in known]
    found += [f"the direction {one} was made without being accepted" for one in known if one not in submitted]
    return found + [
        f"the direction {one.id} is {one.state}, held {one.hold}: {one.error}"
        for one in known.values()
        if str(one.state) != "done"
    ]


def done_once(tx: Transaction, starts: Mapping[str, int]) -> list[str]:
    """Return what was measured, wanted or begun more or less than once."""
    found = []
    for direction in tx.directions.find():
        runs = sorted(run.index for run in tx.runs.find(direction_id=direction.id))
        if runs != [0, 1]:
            found.append(f"the direction {direction.id} has the runs {runs}")
        rows = tx.executions.find(direction_id=direction.id)
        kinds = collections.Counter(str(row.kind) for row in rows)
        if kinds != ONCE:
            found.append(f"the direction {direction.id} wanted {dict(kinds)}")
        found += [wrong for row in rows if (wrong := _begun_once(row, starts.get(container_name(row.id), 0)))]
    return found


def _begun_once(row: Execution, starts: int) -> str:
    """Return what is wrong with how often an execution's program was begun; no supervisor is killed here."""
    if row.state is not ExecutionState.REMOVED:
        return f"the execution {row.id} ({row.kind}) is {row.state}"
    if row.losses or starts != 1:
        return f"the execution {row.id} ({row.kind}) was begun {starts} times and lost {row.losses} times"
    return ""


def given_back(tx: Transaction) -> list[str]:
    """Return what is still reserved or held, though nothing runs."""
    held = [f"the lease {lease.id} is held" for lease in tx.leases.find(ended_at=None)]
    for direction in tx.directions.find():
        for account in (direction.id, direction.tenant):
            balance = tx.ledger.balance(account)
            if balance.running or balance.gpus or abs(balance.usd) > 1e-9:
                held.append(f"the balance of {account} is {balance}")
        kinds: dict[str, list[str]] = collections.defaultdict(list)
        for entry in tx.ledger.entries(direction.id):
            kinds[entry.id.rpartition(":")[0] or entry.call_id].append(entry.kind)
        open_ones = [key for key, told in kinds.items() if told.count("reserved") != len(told) - told.count("reserved")]
        held += [f"the reservation {key} of {direction.id} was not settled once" for key in open_ones]
    return held


def _heirs(state: Path) -> list[str]:
    """Return the processes that have this state folder in their environment, as all that ours start have."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if str(state).encode() in (entry / "environ").read_bytes() and int(entry.name) != os.getpid():
                found.append((entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"))
    return found
