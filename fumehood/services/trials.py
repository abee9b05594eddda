"""One attempt at measuring a run: whose it is, which steps it takes, and what becomes of one that ends badly."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from fumehood.domain.direction import Direction
from fumehood.domain.execution import Kind, Limits, Verdict
from fumehood.domain.experiment import Arm, Attempt, Execution, Experiment, ExperimentState, Run, RunResult
from fumehood.domain.step import Step
from fumehood.domain.template import Profile
from fumehood.errors import BadInputError
from fumehood.services import directions
from fumehood.services.change import Change, Next, happened
from fumehood.services.world import WriteWorld

ERROR_TAIL = 1500
"""Characters of a failed attempt's output that are fed back, as in the original system."""
ALONE, LEAST_ALONE_S = 2.0, 60.0
"""A seed that is run alone has its share of a look's time so many times over, and at least so many seconds of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """A run being measured for the `attempt`-th time; without an experiment it is the baseline."""

    direction: Direction
    experiment: Experiment | None
    run: Run
    attempt: int

    @property
    def subject(self) -> Direction | Experiment:
        """What its events are told of."""
        return self.experiment or self.direction

    @property
    def title(self) -> str:
        """What people read it by."""
        return f"{self.experiment.name} {self.run.folder}" if self.experiment else "baseline"

    def having(self, **changes: object) -> Trial:
        """Return it with its run changed."""
        return dataclasses.replace(self, run=dataclasses.replace(self.run, **changes))  # type: ignore[arg-type]

    def limits(self, profile: Profile, kind: Kind) -> Limits:
        """Return the limits of an execution of it.

        Seeds that are run alone share the time of a look, those of the baseline's pool as much each: one by one, all
        together could else take as many times as long as they are.
        """
        limits = profile.limits_of(kind)
        if not self.run.alone or self.direction.rule is None:
            return limits
        share = max(LEAST_ALONE_S, ALONE * limits.wall_s / self.direction.rule.looks[0])
        return dataclasses.replace(limits, wall_s=min(limits.wall_s, share))

    def next(self, name: str, waits_for: Execution | None = None, **told: str | float) -> Next:
        """Return a step of it; `told` is what it knows besides."""
        return Next(
            name=name,
            key=f"{name}:{self.run.id}:{self.attempt}",
            direction_id=self.direction.id,
            experiment_id=self.experiment.id if self.experiment else None,
            payload={"run": self.run.id, "attempt": self.attempt, **told},
            waits_for=(waits_for.id,) if waits_for else (),
        )


def read(world: WriteWorld, step: Step) -> Trial:
    """Return the trial that a step belongs to."""
    with world.store.begin(write=False) as tx:
        direction = tx.directions.get(step.direction_id)
        experiment = tx.experiments.get(step.experiment_id) if step.experiment_id else None
        return Trial(
            direction=experiment.seen(direction) if experiment else direction,
            experiment=experiment,
            run=tx.runs.get(str(step.payload["run"])),
            attempt=int(step.payload["attempt"]),
        )


def waited(world: WriteWorld, step: Step) -> Execution:
    """Return the one execution that a step waited for."""
    if len(step.waits_for) != 1:
        raise BadInputError(f"The step {step.name} waits for exactly one execution.")
    with world.store.begin(write=False) as tx:
        return tx.executions.get(step.waits_for[0])


def ended(world: WriteWorld, trial: Trial, execution: Execution, reason: str = "") -> Change:
    """Keep a failed attempt and ask for the next; a baseline that fails ends the direction."""
    error = (reason or tail_of(execution))[-ERROR_TAIL:]
    verdict = verdict_of(execution) if not reason else RunResult.NO_RESULT.value
    kept = Attempt(number=trial.attempt, verdict=verdict, error_tail=error, execution_id=execution.id)
    trial = trial.having(attempts=(*trial.run.attempts, kept), outputs={})
    if execution.outcome and execution.outcome.verdict is Verdict.LOST:
        return broken(world, trial.direction, f"the platform could not run an execution: {execution.outcome.detail}")
    if trial.experiment is not None and trial.run.arm is Arm.CONFIRM:
        return _unconfirmed(world, trial, trial.experiment, verdict)
    if trial.experiment is None:
        change = broken(world, trial.direction, f"the template's own {_ended_how(execution, verdict, error)}")
        return dataclasses.replace(change, runs=(trial.run,))
    if trial.run.index == 0:
        why = f"on what was asked for of the catalogue the template's own {_ended_how(execution, verdict, error)}"
        return dataclasses.replace(given_up(world, trial.experiment, why), runs=(trial.run,))
    text = f"{trial.title}: attempt {trial.attempt} ended {verdict}{_limit_passed(execution, verdict)}"
    return Change(
        runs=(trial.run,),
        steps=(trial.next("attempt_failed"),),
        events=(happened(world.clock, trial.experiment, "attempt.failed", text),),
    )


def _unconfirmed(world: WriteWorld, trial: Trial, experiment: Experiment, verdict: str) -> Change:
    """Go back to the confirmation, which has the seeds of a look run alone: nobody mends code here."""
    text = f"{trial.title}: attempt {trial.attempt} ended {verdict}"
    event = happened(world.clock, experiment, "attempt.failed", text)
    failed = dataclasses.replace(trial.run, result=RunResult.FAILED)
    return Change(runs=(failed,), steps=(confirm_measured(experiment, failed),), events=(event,))


def confirm_measured(experiment: Experiment, run: Run) -> Next:
    """Return the step that looks at what a confirmation has measured by now."""
    return Next(
        name="confirm_measured",
        key=f"confirm_measured:{experiment.id}:{run.id}",
        direction_id=experiment.direction_id,
        experiment_id=experiment.id,
    )


def given_up(world: WriteWorld, experiment: Experiment, error: str) -> Change:
    """End one experiment that cannot go on, and go on with the next."""
    ended = experiment.to(ExperimentState.FAILED, error=error, ended_at=world.clock.now())
    event = happened(world.clock, ended, "experiment.failed", f"{ended.name}: {error}")
    return Change(experiments=(ended,), steps=(directions.close_experiment(ended),), events=(event,))


def broken(world: WriteWorld, direction: Direction, error: str) -> Change:
    """End a direction that cannot go on, with its open experiments."""
    with world.store.begin(write=False) as tx:
        open_experiments = [one for one in tx.experiments.find(direction_id=direction.id) if not one.is_final]
    now = world.clock.now()
    return Change(
        directions=(directions.failed(direction, error, now),),
        experiments=tuple(one.to(ExperimentState.FAILED, error=error, ended_at=now) for one in open_experiments),
        events=(happened(world.clock, direction, "direction.failed", error),),
    )


def tail_of(execution: Execution) -> str:
    """Return the end of what an execution printed, or why it never began."""
    if execution.outcome is None:
        return ""
    return (execution.outcome.output_tail or execution.outcome.detail)[-ERROR_TAIL:]


def verdict_of(execution: Execution) -> str:
    """Return how an execution ended; one without an outcome is lost."""
    return execution.outcome.verdict.value if execution.outcome else Verdict.LOST.value


PROGRAMS = {
    Kind.RUN: "experiment.py",
    Kind.QUERY: "serve.py",
    Kind.EVALUATE: "evaluate.py",
    Kind.RESUME: "experiment.py, resumed,",
}


def _ended_how(execution: Execution, verdict: str, error: str) -> str:
    """Name the program, its verdict, and the limit it passed, or else the last it said."""
    program = PROGRAMS.get(execution.kind, execution.kind.value)
    limit = _limit_passed(execution, verdict)
    said = "" if limit or not error.strip() else f": {error.strip()}"
    return f"{program} ended {verdict}{limit}{said}"


def _limit_passed(execution: Execution, verdict: str) -> str:
    limits = execution.limits
    passed = {
        Verdict.TIMED_OUT: f"it may take {limits.wall_s:g} s",
        Verdict.OUT_OF_MEMORY: f"it may use {limits.memory_mib} MiB",
        Verdict.OUT_OF_STORAGE: f"it may store {limits.storage_mib} MiB",
        Verdict.TOO_MANY_PROCESSES: f"it may start {limits.processes} processes",
        Verdict.TOO_MUCH_OUTPUT: f"it may print {limits.output_bytes} bytes",
    }
    return next((f" ({words})" for kind, words in passed.items() if kind.value == verdict), "")
