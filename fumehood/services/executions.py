"""What a run worker does: launch what is wanted, collect what ended, leave nothing."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import tempfile
from pathlib import Path

from fumehood.domain.direction import Direction
from fumehood.domain.execution import (
    MAX_ARTIFACT_BYTES,
    MIB,
    Ended,
    ExecutionState,
    Input,
    Outcome,
    Spec,
    Usage,
    Verdict,
)
from fumehood.domain.experiment import Execution
from fumehood.domain.ids import ExecutionId, container_name
from fumehood.domain.step import Event, Step, StepState
from fumehood.domain.token import id_for_execution
from fumehood.errors import ConflictError, NotFoundError, SandboxUnavailableError
from fumehood.observe import traces
from fumehood.ports import Clock, Sandbox, Store, Transaction
from fumehood.services import leasing, outputs, quotas, switches, told, turns
from fumehood.services.change import Again, Change, Next, happened, key_of
from fumehood.services.queueing import enqueue
from fumehood.services.world import RunWorld

LOSSES = 3
"""How often the platform tries again what it lost itself."""
LOG = logging.getLogger("fumehood.executions")
NO_ROOM_WAIT_S = 5.0
TURN_WAIT_S, LONGEST_TURN_WAIT_S = 1.0, 5.0
NO_ROOM_TRIES = 60
TRIES_AGAIN = {
    "disk_full": NO_ROOM_TRIES,
    "no_docker": NO_ROOM_TRIES,
    "engine_failed": 12,
    "engine_refused": 1,
    "setup_failed": LOSSES - 1,
}
"""How often a launch is tried again that the machine itself failed, by the reason: something else than executions takes
the room, the engine is being restarted, a supervisor was killed. For room that executions take there is no end to it.
"""


def launch_next(execution: Execution) -> Next:
    """Return the step that launches an execution."""
    return _next("launch", execution)


def launch(world: RunWorld, step: Step) -> Change:
    """Start the container; what the machine has no room for waits, what it cannot apply is `lost` with the reason."""
    direction, execution = _subject(world, step)
    if execution.state is not ExecutionState.WANTED:
        return Change()
    if direction.is_final:
        outcome = _never_ran(execution, Verdict.CANCELLED, f"its direction was {direction.state} before it began")
        return _collected(world, execution, outcome)
    with tempfile.TemporaryDirectory(prefix="fumehood-key-") as folder:
        try:
            gpus = quotas.reserve(
                world.store, world.clock, direction, execution, world.gpus, world.machine, world.gpu_memory_mib
            )
            if gpus is None:
                return _waits_its_turn(world, step, execution)
            _begin(world, step, _spec(world, direction, execution, Path(folder), gpus))
        except SandboxUnavailableError as error:
            if waiting := _waiting(world, step, execution, error):
                return waiting
            return _collected(world, execution, _never_ran(execution, Verdict.LOST, str(error)))
    if execution.may_ask_model:
        token = id_for_execution(execution.id, execution.fence)
        LOG.info("%s may ask its direction's model with the token %s", execution.id, token)
    return Change(executions=(execution.to(ExecutionState.LAUNCHED, launched_at=world.clock.now()),))


def _begin(world: RunWorld, step: Step, spec: Spec) -> None:
    try:
        world.sandbox.launch(spec)
    except ConflictError:
        _, newest = _subject(world, step)
        if not spec.fence or newest.fence != spec.fence or newest.state is not ExecutionState.WANTED:
            # Whoever comes too late ends nothing that a later launch began.
            raise
        # A launch that failed may leave its record where the engine was away; the one after it has another fence.
        world.sandbox.remove(spec.name)
        world.sandbox.launch(spec)


def _spec(
    world: RunWorld, direction: Direction, execution: Execution, private: Path, gpus: tuple[str, ...] = ()
) -> Spec:
    inputs = [
        Input(path=path, sha256=sha, source=str(world.artifacts.path(sha))) for path, sha in execution.inputs.items()
    ]
    if execution.key_context:
        key = world.derive_key(execution.key_context)
        source = private / "key"
        source.write_bytes(key)
        inputs.append(Input(path="in/key", sha256=hashlib.sha256(key).hexdigest(), source=str(source)))
    return Spec(
        name=container_name(execution.id),
        kind=execution.kind,
        command=execution.command,
        image=execution.image,
        inputs=tuple(inputs),
        collect=execution.collect,
        environment=execution.environment,
        limits=execution.limits,
        # What its storage holds may come out, also where that is more than is usual.
        max_artifact_bytes=max(MAX_ARTIFACT_BYTES, execution.limits.storage_mib * MIB),
        network=execution.network,
        gpus=gpus,
        fence=execution.fence,
        labels={"direction": direction.id, "execution": execution.id},
    )


def collect(world: RunWorld, step: Step) -> Change:
    """Let the declared files out and keep them by their hash; what the platform lost is tried again."""
    _, execution = _subject(world, step)
    if execution.state not in {ExecutionState.LAUNCHED, ExecutionState.ENDED}:
        return Change()
    name = container_name(execution.id)
    with tempfile.TemporaryDirectory(prefix="fumehood-collect-") as folder:
        try:
            outcome = world.sandbox.collect(name, Path(folder))
            for item in outcome.artifacts:
                if world.artifacts.put_file(Path(folder) / item.path) != item.sha256:
                    raise ConflictError(f"The artifact {item.path} of {name} changed while it was collected.")
            outcome = dataclasses.replace(outcome, device=world.device(_gpus_of(world, execution)))
            if execution.gpus:
                outcome = told.with_gpu_memory(outcome, Path(folder))
        except NotFoundError:
            outcome = _never_ran(execution, Verdict.LOST, "its container is gone")
    _trace(world.store, execution, outcome)
    if outcome.verdict is Verdict.LOST and execution.losses + 1 < LOSSES:
        world.sandbox.remove(name)
        # What an admin's switch stopped was not lost by any fault, and is tried again however often.
        losses = execution.losses + (0 if _is_killed(world, execution) else 1)
        again = execution.to(ExecutionState.WANTED, losses=losses, fence=execution.fence + 1)
        return Change(executions=(again,))
    return _collected(world, execution, outcome)


def _gpus_of(world: RunWorld, execution: Execution) -> tuple[str, ...]:
    """Return the GPUs that an execution has or, where it needs none, that others have here."""
    if not execution.gpus:
        return world.gpus
    with world.store.begin(write=False) as tx:
        return next((lease.gpus for lease in tx.leases.find(id=leasing.lease_id(execution))), ())


def _trace(store: Store, execution: Execution, outcome: Outcome) -> None:
    """Tell of the container's life, below the step that launched it."""
    if not traces.is_on() or execution.launched_at is None:
        return
    with store.begin(write=False) as tx:
        launched = tx.steps.find(key=launch_next(execution).key)
    parent = "".join(traces.carried_by(step.payload) for step in launched)
    ends = execution.launched_at + outcome.usage.wall_s
    named = {"execution": execution.id, "direction": execution.direction_id, "experiment": execution.experiment_id}
    traces.ended(
        f"execution {execution.kind}", parent, execution.launched_at, ends, **named, verdict=outcome.verdict.value
    )


def remove(world: RunWorld, step: Step) -> Change:
    """Leave nothing of an execution on this machine."""
    _, execution = _subject(world, step)
    world.sandbox.remove(container_name(execution.id))
    if execution.state is not ExecutionState.COLLECTED:
        return Change()
    return Change(executions=(execution.to(ExecutionState.REMOVED),))


def _collected(world: RunWorld, execution: Execution, outcome: Outcome) -> Change:
    execution = execution.to(ExecutionState.COLLECTED, outcome=outcome)
    events: tuple[Event, ...] = ()
    if outcome.rejected:
        listed = ", ".join(f"{one.path} ({one.reason})" for one in outcome.rejected[:5])
        text = f"{execution.kind}: {len(outcome.rejected)} files were not let out: {listed}"
        events = (happened(world.clock, execution, "artifacts.rejected", text),)
    return Change(executions=(execution,), steps=(_next("remove", execution),), events=events)


def gave_up(clock: Clock, execution: Execution, reason: str) -> Change:
    """Close an execution that the platform could not carry out, so that what waits for it goes on."""
    outcome = _never_ran(execution, Verdict.LOST, reason)
    event = happened(clock, execution, "execution.lost", f"{execution.kind}: {reason}")
    closed = execution.to(ExecutionState.COLLECTED, outcome=outcome)
    return Change(executions=(closed,), steps=(_next("remove", execution),), events=(event,))


def _never_ran(execution: Execution, verdict: Verdict, detail: str) -> Outcome:
    return Outcome(
        name=container_name(execution.id),
        verdict=verdict,
        exit_code=None,
        usage=Usage(),
        output_tail="",
        truncated=False,
        artifacts=(),
        rejected=(),
        image="",
        detail=detail,
    )


def give_back(tx: Transaction, clock: Clock, execution: Execution) -> None:
    """Free what is set aside for an execution that did not come to be launched; it is wanted as before."""
    if not quotas.is_reserved(tx, execution):
        return
    for step in tx.steps.find(key=launch_next(execution).key):
        tx.steps.finish(dataclasses.replace(step, state=StepState.DONE, lease_until=0.0))
    later = dataclasses.replace(execution, fence=execution.fence + 1)
    tx.executions.save(later)
    quotas.settle(tx, clock, later)
    enqueue(tx, clock, (launch_next(later),))


def watch_once(store: Store, sandbox: Sandbox, clock: Clock, unknown: set[str] | None = None) -> int:
    """Look once at every launched execution: ask for `collect` where one ended, stop what nobody waits for any more.

    Args:
        store: The database.
        sandbox: The engine.
        clock: The time.
        unknown: Kept from look to look: the executions of which nothing could be known, and people were told so.

    Returns:
        How many are still running.
    """
    unknown = set() if unknown is None else unknown
    with store.begin(write=False) as tx:
        launched = tx.executions.find(state=ExecutionState.LAUNCHED)
        directions = {one.direction_id: tx.directions.get(one.direction_id) for one in launched}
        over = {key for key, one in directions.items() if one.is_final}
        killed = {key for key, one in directions.items() if switches.is_killed(tx, one.tenant)}
    running = 0
    for execution in launched:
        name = container_name(execution.id)
        try:
            seen = sandbox.inspect(name)
        except NotFoundError:
            seen = None
        except SandboxUnavailableError as error:
            # An engine that is away keeps nobody from looking at what needs none.
            if execution.id not in unknown:
                _tell_away(store, clock, execution, error)
            unknown.add(execution.id)
            running += 1
            continue
        unknown.discard(execution.id)
        if seen is None or isinstance(seen, Ended):
            if seen is not None:
                outputs.finish(store, sandbox, clock, execution)
            with store.begin() as tx:
                enqueue(tx, clock, (_next("collect", execution),))
            continue
        running += 1
        if execution.direction_id in over | killed:
            # What the switch stopped is begun again later: it is lost, and not cancelled.
            reason = Verdict.CANCELLED if execution.direction_id in over else Verdict.LOST
            try:
                sandbox.stop(name, reason.value)
            except NotFoundError:
                pass
            except SandboxUnavailableError as error:
                LOG.warning("%s could not be stopped now: %s", name, error)
    return running


def _tell_away(store: Store, clock: Clock, execution: Execution, error: SandboxUnavailableError) -> None:
    LOG.warning("nothing is known of %s now: %s", container_name(execution.id), error)
    text = f"nothing is known of {execution.kind} now, whose deadline is held all the same: {error}"
    with store.begin() as tx:
        tx.events.append(happened(clock, execution, "execution.unknown", text))


def _next(name: str, execution: Execution) -> Next:
    return Next(
        name=name,
        key=key_of(name, execution),
        direction_id=execution.direction_id,
        experiment_id=execution.experiment_id,
        payload={"execution": execution.id},
    )


def _waiting(world: RunWorld, step: Step, execution: Execution, error: SandboxUnavailableError) -> Change | None:
    """Have the same launch again later, where it may succeed then; None where waiting has no end or no use."""
    waits, in_vain = int(step.payload.get("waits", 0)) + 1, int(step.payload.get("in_vain", 0))
    if error.reason == "no_space":
        # Other executions hold the room, and each of them has a deadline.
        in_vain = 0
    elif in_vain < TRIES_AGAIN.get(error.reason, 0):
        in_vain += 1
    else:
        return None
    said = happened(world.clock, execution, "execution.waits", f"{execution.kind} waits: {error}")
    # With a fence of its own, so that nothing stays set aside for it meanwhile that others could use.
    later = dataclasses.replace(execution, fence=execution.fence + 1)
    payload = {**step.payload, "waits": waits, "in_vain": in_vain}
    # It waits for the machine now and not for others, whose ends would only use up its tries.
    payload.pop(turns.WAITED, None)
    again = dataclasses.replace(launch_next(later), payload=payload, delay_s=NO_ROOM_WAIT_S)
    return Change(executions=(later,), steps=(again,), events=(said,) if waits == 1 else ())


def _waits_its_turn(world: RunWorld, step: Step, execution: Execution) -> Change:
    """Have the same launch again later: others of its tenant, or of another, have what it needs."""
    waited = int(step.payload.get(turns.WAITED, 0)) + 1
    said = happened(world.clock, execution, "execution.waits", f"{execution.kind} waits for its turn")
    # The longer it has waited, the less a moment more matters, and the less it may cost everybody else.
    delay_s = min(LONGEST_TURN_WAIT_S, TURN_WAIT_S * 1.1 ** (waited - 1))
    again = Again(delay_s=delay_s, payload={turns.WAITED: waited})
    return Change(again=again, events=(said,) if waited == 1 else ())


def _is_killed(world: RunWorld, execution: Execution) -> bool:
    with world.store.begin(write=False) as tx:
        return switches.is_killed(tx, tx.directions.get(execution.direction_id).tenant)


def _subject(world: RunWorld, step: Step) -> tuple[Direction, Execution]:
    with world.store.begin(write=False) as tx:
        execution = tx.executions.get(ExecutionId(str(step.payload["execution"])))
        return tx.directions.get(execution.direction_id), execution
