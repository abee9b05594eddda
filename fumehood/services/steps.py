"""The pipeline as a table of steps, and the one function that carries it on.

A step claims its row, does one thing, and commits the new state and the next steps' rows in one transaction. Killed
anywhere it is done again with the same outcome; claimed twice, only the newest fence commits.
"""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from enum import StrEnum

from fumehood.domain.direction import BUDGETS, Approve, Direction, Hold
from fumehood.domain.execution import ExecutionState
from fumehood.domain.experiment import Execution, Experiment, ExperimentState
from fumehood.domain.idea import Idea
from fumehood.domain.ids import DirectionId
from fumehood.domain.policy import ADMIN
from fumehood.domain.step import Side, Step, StepState
from fumehood.errors import (
    ArtifactsUnavailableError,
    FumehoodError,
    ModelUnavailableError,
    OverBudgetError,
    SandboxUnavailableError,
    StoreUnavailableError,
)
from fumehood.observe import context, metrics, traces
from fumehood.ports import Clock, Store, Transaction
from fumehood.services import (
    coding,
    confirmations,
    directions,
    executions,
    experiments,
    forks,
    ideas,
    log,
    measuring,
    novelty,
    plots,
    preparing,
    quotas,
    records,
    requesting,
    retracing,
    reviews,
    verification,
    writeup,
)
from fumehood.services.change import Change, happened
from fumehood.services.presence import Presence
from fumehood.services.queueing import enqueue
from fumehood.services.world import MODEL_TRIES, InHand, RunWorld, WriteWorld

WRITE_STEPS: Mapping[str, Callable[[WriteWorld, Step], Change]] = {
    "begin": directions.begin,
    "prepare": preparing.prepare,
    "prepared": preparing.prepared,
    "baseline": measuring.baseline,
    "measure": measuring.measure,
    "ran": measuring.ran,
    "queried": measuring.queried,
    "evaluated": measuring.evaluated,
    **retracing.STEPS,
    "no_result": measuring.no_result,
    "propose": ideas.propose,
    "check_novelty": novelty.check_novelty,
    "schedule": directions.schedule,
    "next_experiment": directions.next_experiment,
    **requesting.STEPS,
    "begin_experiment": experiments.begin_experiment,
    "begin_fork": forks.begin,
    "code": coding.code,
    "attempt_failed": experiments.attempt_failed,
    "run_done": experiments.run_done,
    **confirmations.STEPS,
    "plot": plots.plot,
    "plotted": plots.plotted,
    **writeup.STEPS,
    **reviews.STEPS,
    "verify": verification.verify,
}
RUN_STEPS: Mapping[str, Callable[[RunWorld, Step], Change]] = {
    "launch": executions.launch,
    "collect": executions.collect,
    "remove": executions.remove,
    "record": records.record,
}

LEASE_S = {Side.WRITE: 60.0, Side.RUN: 8.0}
"""A dead worker's step is done again after this long. Doing a model's call twice costs money, a launch nothing."""
LET_GO_EVERY_S = 1.0
"""How often a worker asks for a database that went away under its step."""
BEATS = 4
"""How often a lease is renewed in its time."""
TRIES = MODEL_TRIES
"""Claims of one step before its direction or experiment is held, where nothing else is set."""
BUG_TRIES = 3
"""A fault of our own is tried again, since it may have been the machine's; its trace is in the worker's log."""
MODEL_WAIT_S = 10.0
AWAY_WAIT_S = 3.0
_WAS_AWAY = "was_away"
"""In the payload of a step whose artifacts or engine were away when it was done last."""
DEATHS = 20
"""A step whose workers died this often with it, beyond its tries, is given up: it would take others with it."""
LIFTED_BY_ITSELF = frozenset({Hold.OVER_BUDGET, Hold.NO_MODEL})

LOG = logging.getLogger("fumehood.steps")


class Ending(StrEnum):
    """What became of a claim, for the log."""

    DONE = "done"
    AGAIN = "again"
    """It is due once more."""
    HELD = "held"
    FAILED = "failed"
    SUPERSEDED = "superseded"
    """Somebody else claimed it meanwhile; nothing of this claim is kept."""
    LET_GO = "let_go"
    """The database went away; whether the commit came through is not known."""


@dataclasses.dataclass(frozen=True, slots=True)
class _Ended:
    ending: Ending
    reason: str = ""


class _SupersededError(Exception):
    """Somebody else claimed the step; nothing of ours is committed."""


class _OutdatedError(Exception):
    """What the step went by has changed under it; nothing of ours is committed."""


def advance(
    world: WriteWorld | RunWorld,
    direction_id: DirectionId | None = None,
    apart_from: frozenset[DirectionId] = frozenset(),
) -> bool:
    """Do one due step of this worker's side, of one direction where it is given; False when nothing was due.

    Directions in `apart_from` are left to whoever carries them out.
    """
    side = Side.WRITE if isinstance(world, WriteWorld) else Side.RUN
    # A worker of one direction alone is no worker that anybody else may count on.
    presence = world.presence if direction_id is None else None
    with world.store.begin() as tx:
        step = tx.steps.claim(
            side, now=world.clock.now(), lease_s=LEASE_S[side], direction_id=direction_id, apart_from=apart_from
        )
        if presence is not None:
            presence.show(tx)
        tenant = tx.directions.get(step.direction_id).tenant if step else None
        parent = _origin(tx, step) if step else ""
    if step is None:
        return False
    named = {
        "tenant": tenant,
        "direction": step.direction_id,
        "experiment": step.experiment_id,
        "step": step.id,
        "execution": str(step.payload.get("execution", "")) or None,
    }
    with context.working_on(**named), traces.span(f"step {step.name}", parent, **named) as span:
        ended = _carry_out(world, step, presence)
        span.set_attribute("fumehood.outcome", ended.ending.value)
    return True


def _origin(tx: Transaction, step: Step) -> str:
    """Return what a direction's first step carries, so that all of its steps join one trace."""
    if not traces.is_on():
        return ""
    return "".join(traces.carried_by(one.payload) for one in tx.steps.find(key=f"begin:{step.direction_id}"))


def _carry_out(world: WriteWorld | RunWorld, step: Step, presence: Presence | None) -> _Ended:
    began, ended = time.perf_counter(), _Ended(Ending.LET_GO)
    try:
        with _heartbeat(world.store, world.clock, step, presence):
            ended = _try(world, step)
    finally:
        _tell(step, ended, time.perf_counter() - began)
    return ended


def _try(world: WriteWorld | RunWorld, step: Step) -> _Ended:
    tries = world.model_tries if isinstance(world, WriteWorld) else TRIES
    try:
        try:
            if step.tries > tries + DEATHS:
                return _given_up(world, step)
            change = _do(world, step)
            if change.again is not None:
                back = dataclasses.replace(step, tries=0, payload={**step.payload, **change.again.payload})
                commit(world.store, world.clock, back, change, StepState.DUE, delay_s=change.again.delay_s)
                return _Ended(Ending.AGAIN)
            commit(world.store, world.clock, step, change, StepState.DONE)
            return _Ended(Ending.DONE)
        except (_SupersededError, StoreUnavailableError):
            raise
        except _OutdatedError:
            back = dataclasses.replace(step, tries=step.tries - 1)
            commit(world.store, world.clock, back, Change(), StepState.DUE)
            return _Ended(Ending.AGAIN)
        except Exception as error:  # noqa: BLE001 - the edge of a worker: one broken step must not end the loop
            return _after_error(world.store, world.clock, step, error, tries)
    except _SupersededError:
        return _Ended(Ending.SUPERSEDED)
    except StoreUnavailableError:
        _let_go(world.store, world.clock, step)
        raise


def _given_up(world: WriteWorld | RunWorld, step: Step) -> _Ended:
    reason = f"{step.name} was begun {step.tries - 1} times, and its worker ended each time before it was done"
    LOG.error("%s (%s): %s", step.name, step.id, reason)
    commit(world.store, world.clock, step, _failed(world.store, world.clock, step, reason), StepState.FAILED, reason)
    return _Ended(Ending.FAILED, reason)


def _tell(step: Step, ended: _Ended, duration_s: float) -> None:
    told = {
        "name_of_step": step.name,
        "side": step.side.value,
        "outcome": ended.ending.value,
        "tries": step.tries,
        "duration_s": round(duration_s, 6),
    }
    metrics.STEP_SECONDS.labels(step.name, ended.ending.value).observe(duration_s)
    why = f": {ended.reason}" if ended.reason else ""
    level = logging.INFO if ended.ending is Ending.DONE else logging.WARNING
    LOG.log(level, "%s: %s in %.3f s%s", step.name, ended.ending.value, duration_s, why, extra=told)


def _let_go(store: Store, clock: Clock, step: Step) -> None:
    """End the lease as soon as the database is back; a commit that came through after all has ended the step."""
    if not _ends_lease(store, clock, step):
        # Whoever waits for the lease to run out would wait for a minute.
        threading.Thread(target=_let_go_later, args=(store, clock, step), daemon=True).start()


def _let_go_later(store: Store, clock: Clock, step: Step) -> None:
    for _ in range(int(LEASE_S[step.side] / LET_GO_EVERY_S)):
        time.sleep(LET_GO_EVERY_S)
        if _ends_lease(store, clock, step):
            return


def _ends_lease(store: Store, clock: Clock, step: Step) -> bool:
    """Tell whether the database took it; a step that somebody else has claimed since stays theirs."""
    with contextlib.suppress(StoreUnavailableError), store.begin() as tx:
        tx.steps.renew(step, until=clock.now())
        return True
    return False


def _after_error(store: Store, clock: Clock, step: Step, error: Exception, tries: int = TRIES) -> _Ended:
    """Put the step back, hold what it belongs to, or fail it, by what went wrong."""
    reason = str(error)
    if isinstance(error, ArtifactsUnavailableError) or _is_engine_away(error):
        # Nothing was kept by half; what waits for its store or engine waits as long as that takes, and loses no try.
        waiting = dataclasses.replace(step, tries=step.tries - 1, payload={**step.payload, _WAS_AWAY: True})
        commit(store, clock, waiting, Change(), StepState.DUE, reason, delay_s=AWAY_WAIT_S)
        return _Ended(Ending.AGAIN, reason)
    # What an engine refuses to collect or to remove now, it may not in a moment.
    again = isinstance(error, SandboxUnavailableError) or (isinstance(error, ModelUnavailableError) and error.retryable)
    hold = _hold_for(error, is_last=step.tries >= tries)
    if hold is not Hold.NONE:
        # What is held has not failed: it waits for the hold to be lifted, then has all its tries again.
        held = dataclasses.replace(step, tries=0)
        whole = isinstance(error, OverBudgetError) and error.is_directions
        commit(store, clock, held, _held(store, clock, step, hold, reason, whole=whole), StepState.DUE, reason)
        return _Ended(Ending.HELD, reason)
    if not isinstance(error, FumehoodError):
        LOG.error("the step %s (%s) broke, try %d", step.name, step.id, step.tries, exc_info=error)
        again, tries, reason = True, BUG_TRIES, f"a fault in Fumehood: {type(error).__name__}: {error}"
    if again and step.tries < tries:
        commit(store, clock, step, Change(), StepState.DUE, reason)
        return _Ended(Ending.AGAIN, reason)
    commit(store, clock, step, _failed(store, clock, step, reason), StepState.FAILED, reason)
    return _Ended(Ending.FAILED, reason)


def _is_engine_away(error: Exception) -> bool:
    """Whether it is the engine that does not answer; a launch, which may not wait for ever, sees to that itself."""
    return isinstance(error, SandboxUnavailableError) and error.reason == "no_docker"


def _hold_for(error: Exception, *, is_last: bool) -> Hold:
    """Return the hold for what a person or time will mend; a model that may answer soon is first asked again."""
    if isinstance(error, OverBudgetError):
        return Hold.OVER_BUDGET
    if isinstance(error, ModelUnavailableError) and (error.mendable or (error.retryable and is_last)):
        return Hold.NO_MODEL
    return Hold.NONE


def _do(world: WriteWorld | RunWorld, step: Step) -> Change:
    if step.payload.get(_WAS_AWAY):
        # Nothing is asked of a model again, and paid again, whose answer could not be kept.
        world.artifacts.probe(writes=True)
    if isinstance(world, WriteWorld):
        return WRITE_STEPS[step.name](dataclasses.replace(world, in_hand=InHand(step)), step)
    return RUN_STEPS[step.name](world, step)


def commit(
    store: Store,
    clock: Clock,
    step: Step,
    change: Change,
    state: StepState,
    error: str = "",
    *,
    delay_s: float | None = None,
) -> None:
    """Store everything a step wants and its own end in one transaction, or nothing when it was claimed again."""
    now = clock.now()
    if delay_s is None:
        delay_s = MODEL_WAIT_S * step.tries if state is StepState.DUE and error else 0.0
    finished = dataclasses.replace(step, state=state, error=error[:2000], due_at=now + delay_s, lease_until=0.0)
    if traces.is_on():
        # What came first stays: the request that a direction began with, else its first step.
        finished = dataclasses.replace(finished, payload={**traces.carried(), **step.payload})
    with store.begin() as tx:
        if not tx.steps.finish(finished):
            raise _SupersededError
        if change.holds is not None and not change.holds(tx):
            raise _OutdatedError
        save(tx, clock, change)
        if _may_wake(change):
            tx.steps.wake(now=now)


def _may_wake(change: Change) -> bool:
    """Whether a step that waits for executions may now be due: looking costs a question for each that waits."""
    over = {ExecutionState.COLLECTED, ExecutionState.REMOVED}
    return any(one.state in over for one in change.executions) or any(one.waits_for for one in change.steps)


def save(tx: Transaction, clock: Clock, change: Change) -> None:
    """Store everything a change holds; a final row stays as it is, and what people set meanwhile is kept."""
    for direction in change.directions:
        _save_direction(tx, direction)
    for experiment in change.experiments:
        known = tx.experiments.find(id=experiment.id)
        if not (known and known[0].is_final):
            hold = _kept(experiment.hold, known[0].hold if known else Hold.NONE)
            if known and hold is Hold.NONE and known[0].state is not experiment.state and not experiment.is_final:
                hold = _approval(tx, experiment)
            tx.experiments.save(dataclasses.replace(experiment, hold=hold))
    tx.ideas.save(*(_as_decided(tx, idea) for idea in change.ideas))
    log.keep(tx, clock, change.runs)
    # Before the launches that follow from executions alone: of two with one key the first stays.
    enqueue(tx, clock, change.steps)
    for execution in change.executions:
        _save_execution(tx, clock, execution)
    tx.events.append(*change.events)
    tx.audit.append(*change.audit)


def _save_direction(tx: Transaction, direction: Direction) -> None:
    stored = tx.directions.find(id=direction.id)
    if stored and stored[0].is_final:
        return
    if stored:
        # No step changes a template's files, also where an experiment saw more of them.
        direction = dataclasses.replace(direction, template_files=stored[0].template_files)
        # No step sets a budget, and one that asked a model meanwhile knows the old one.
        direction = dataclasses.replace(direction, **{name: getattr(stored[0], name) for name in BUDGETS})
    hold = _kept(direction.hold, stored[0].hold if stored else Hold.NONE)
    tx.directions.save(dataclasses.replace(direction, hold=hold))


def _as_decided(tx: Transaction, idea: Idea) -> Idea:
    """Return an idea with what people have said of it while a step asked models: no step decides in their place."""
    for stored in tx.ideas.find(id=idea.id):
        idea = dataclasses.replace(idea, decision=stored.decision)
        if stored.screening.rule == ADMIN:
            idea = idea.screened(stored.screening)
    return idea


def _save_execution(tx: Transaction, clock: Clock, execution: Execution) -> None:
    tx.executions.save(execution)
    if execution.state in {ExecutionState.WANTED, ExecutionState.COLLECTED}:
        quotas.settle(tx, clock, execution)
    if execution.state is ExecutionState.WANTED:
        enqueue(tx, clock, (executions.launch_next(execution),))


def _kept(wanted: Hold, stored: Hold) -> Hold:
    """Return the hold that stays.

    What the policy holds is not held for a lesser reason, which others could lift, and what a person paused meanwhile
    only a person lets go on. No step pauses: one that read its row in a pause has nothing to say of it afterwards.
    """
    if wanted in {Hold.NONE, Hold.PAUSED} or stored is Hold.POLICY:
        return stored
    return stored if stored is Hold.PAUSED and wanted in LIFTED_BY_ITSELF else wanted


def _approval(tx: Transaction, experiment: Experiment) -> Hold:
    """Return the hold of an experiment that has just moved: a person may want to approve each step."""
    every = tx.directions.get(experiment.direction_id).approve is Approve.EVERY_STEP
    return Hold.APPROVAL if every else Hold.NONE


def _subject(store: Store, step: Step) -> tuple[Direction, Experiment | None]:
    with store.begin(write=False) as tx:
        direction = tx.directions.get(step.direction_id)
        return direction, tx.experiments.get(step.experiment_id) if step.experiment_id else None


def _held(store: Store, clock: Clock, step: Step, hold: Hold, reason: str, *, whole: bool) -> Change:
    direction, experiment = _subject(store, step)
    event = happened(clock, step, hold.value, f"held: {reason}")
    if experiment is not None and not whole:
        return Change(experiments=(dataclasses.replace(experiment, hold=hold),), events=(event,))
    return Change(directions=(dataclasses.replace(direction, hold=hold),), events=(event,))


def _failed(store: Store, clock: Clock, step: Step, reason: str) -> Change:
    direction, experiment = _subject(store, step)
    now = clock.now()
    if step.name == "remove":
        return Change(events=(happened(clock, step, "cleanup.failed", reason),))
    if step.side is Side.RUN and "execution" in step.payload:
        with store.begin(write=False) as tx:
            execution = tx.executions.get(str(step.payload["execution"]))
        if execution.state in {ExecutionState.WANTED, ExecutionState.LAUNCHED, ExecutionState.ENDED}:
            return executions.gave_up(clock, execution, reason)
    if experiment is not None:
        if experiment.is_final:
            return Change()
        ended = experiment.to(ExperimentState.FAILED, error=reason, ended_at=now)
        event = happened(clock, step, "experiment.failed", f"{experiment.name}: {reason}")
        return Change(experiments=(ended,), steps=(directions.close_experiment(ended),), events=(event,))
    if direction.is_final:
        return Change()
    event = happened(clock, step, "direction.failed", reason)
    return Change(directions=(directions.failed(direction, reason, now),), events=(event,))


@contextlib.contextmanager
def _heartbeat(store: Store, clock: Clock, step: Step, presence: Presence | None = None) -> Iterator[None]:
    """Keep the lease while a long model call or edit is under way; a renewal that fails is said, and tried again."""
    done = threading.Event()

    def beat() -> None:
        while not done.wait(LEASE_S[step.side] / BEATS):
            try:
                with store.begin() as tx:
                    is_ours = tx.steps.renew(step, until=clock.now() + LEASE_S[step.side])
                    if presence is not None:
                        presence.show(tx)
            except Exception as error:  # noqa: BLE001 - a thread that ended here would let the lease run out unseen
                LOG.warning("the lease of %s (%s) could not be renewed: %s", step.name, step.id, error)
                continue
            if not is_ours:
                LOG.warning("another worker has %s (%s) now; what this one does is dropped", step.name, step.id)
                return

    # In a copy of the context, so that its lines carry the step's ids too.
    thread = threading.Thread(target=contextvars.copy_context().run, args=(beat,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def nothing_left(store: Store, direction: Direction) -> bool:
    """Whether a direction needs no more work: it is final or held, and none of its containers is left."""
    with store.begin(write=False) as tx:
        now = tx.directions.get(direction.id)
        steps = tx.steps.find(direction_id=direction.id)
        left = [one for one in tx.executions.find(direction_id=direction.id) if one.state in _ON_MACHINE]
        held = {one.id for one in tx.experiments.find(direction_id=direction.id) if one.hold is not Hold.NONE}
    live = {StepState.DUE, StepState.CLAIMED}
    if now.is_final:
        return not left and not any(one.state in live and one.side is Side.RUN for one in steps)
    if now.hold is not Hold.NONE:
        return not left
    return bool(held) and not left and all(one.experiment_id in held for one in steps if one.state in live)


_ON_MACHINE = {ExecutionState.LAUNCHED, ExecutionState.ENDED, ExecutionState.COLLECTED}
