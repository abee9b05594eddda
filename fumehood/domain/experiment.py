"""One idea being carried out, its runs and attempts, and the law of its life."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from fumehood.domain.direction import Direction, Hold
from fumehood.domain.execution import (
    EXECUTION_MOVES,
    LLM,
    Artifact,
    ExecutionState,
    Kind,
    Limits,
    Outcome,
    Verdict,
    granted_names,
)
from fumehood.domain.idea import Idea
from fumehood.domain.ids import DirectionId, ExecutionId, ExperimentId, IdeaId, RunId
from fumehood.errors import ConflictError


class ExperimentState(StrEnum):
    """Where an experiment stands."""

    QUEUED = "queued"
    BASELINE = "baseline"
    CODING = "coding"
    RUNNING = "running"
    CONFIRMING = "confirming"
    PLOTTING = "plotting"
    WRITING = "writing"
    REVIEWING = "reviewing"
    REVISING = "revising"
    VERIFYING = "verifying"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"
    REFUSED = "refused"


_S = ExperimentState
_STOPS = frozenset({_S.FAILED, _S.CANCELLED, _S.REFUSED})
EXPERIMENT_MOVES: Mapping[ExperimentState, frozenset[ExperimentState]] = {
    _S.QUEUED: _STOPS | {_S.BASELINE},
    _S.BASELINE: _STOPS | {_S.CODING, _S.RUNNING, _S.PLOTTING, _S.WRITING, _S.REVIEWING},
    _S.CODING: _STOPS | {_S.RUNNING, _S.CONFIRMING, _S.PLOTTING},
    _S.RUNNING: _STOPS | {_S.CODING, _S.CONFIRMING, _S.PLOTTING},
    _S.CONFIRMING: _STOPS | {_S.PLOTTING},
    _S.PLOTTING: _STOPS | {_S.WRITING},
    _S.WRITING: _STOPS | {_S.REVIEWING},
    _S.REVIEWING: _STOPS | {_S.REVISING, _S.VERIFYING},
    _S.REVISING: _STOPS | {_S.REVIEWING},
    _S.VERIFYING: _STOPS | {_S.DONE},
    _S.DONE: frozenset(),
    _S.FAILED: frozenset(),
    _S.CANCELLED: frozenset(),
    _S.REFUSED: frozenset(),
}
"""The allowed moves; `confirming` is skipped where the profile does not confirm, and a fork goes on at its stage."""


class ExperimentOutcome(StrEnum):
    """What the registered comparison says, by rule."""

    CONFIRMED = "confirmed"
    REFUTED = "refuted"
    INCONCLUSIVE = "inconclusive"


class Arm(StrEnum):
    """Which data a run is measured on."""

    SCREEN = "screen"
    """The dev set, which the coder sees results of."""
    CONFIRM = "confirm"
    """Drawn for confirmations alone: training data under a transform of its own, and sealed held-out data."""


class RunResult(StrEnum):
    """How a run ended."""

    PENDING = "pending"
    MEASURED = "measured"
    NO_RESULT = "no_result"
    """It ended well, but its numbers are missing, malformed or not finite."""
    FAILED = "failed"
    """Its attempts are used up."""
    REFUSED = "refused"
    REJECTED = "rejected"


def folder_of(arm: Arm, index: int, alone: int = 0) -> str:
    """Return the folder's name of a run in a finished experiment: `run_2`, `confirm_1`, `confirm_1_seed_3`."""
    whole = f"{'run' if arm is Arm.SCREEN else 'confirm'}_{index}"
    return f"{whole}_seed_{alone}" if alone else whole


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """A run tried once."""

    number: int
    """From 1."""
    verdict: str
    """The execution's verdict, or `no_edit`, `refused`, `no_result`."""
    error_tail: str = ""
    execution_id: ExecutionId | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One measurement of one version of the code; `run_0` is the baseline."""

    id: RunId
    direction_id: DirectionId
    experiment_id: ExperimentId | None
    """None for the baseline, which a direction's experiments share."""
    index: int
    """Of a screen, 0 for the baseline. Of a confirmation, 0 for the baseline's pool, else which look it is."""
    arm: Arm = Arm.SCREEN
    confirms: RunId | None = None
    """The screened run that is measured again."""
    alone: int = 0
    """Which seed of a look that failed is measured alone, from 1; 0 where all of a run's seeds are measured at once."""
    arguments: tuple[str, ...] = ()
    """What the program is given besides the profile's arguments, of which the later ones hold."""
    title: str = ""
    description: str = ""
    files: Mapping[str, str] = field(default_factory=dict)
    """The code measured: path to SHA-256."""
    attempts: tuple[Attempt, ...] = ()
    result: RunResult = RunResult.PENDING
    seeds: tuple[int, ...] = ()
    outputs: Mapping[str, str] = field(default_factory=dict)
    """What the run and its query left: path below `run_<index>/` to SHA-256."""
    final_info: str = ""
    """SHA-256 of `final_info.json` as the platform wrote it."""
    self_reported: str = ""
    record: str = ""
    """SHA-256 of the signed record."""
    log: str = ""
    """SHA-256 of the program's output, as far as it was kept."""
    cache_key: str = ""
    """Equal keys mean the same measurement; only baselines are shared."""

    @property
    def folder(self) -> str:
        """The folder's name in a finished experiment."""
        return folder_of(self.arm, self.index, self.alone)


def settled(runs: Iterable[Run]) -> tuple[Run, ...]:
    """Return the runs that came to an end, of several in one folder the newest.

    Another is there only where the experiment that wanted it ended amid it, and the next had its seeds measured again.
    """
    return tuple({run.folder: run for run in runs if run.result is not RunResult.PENDING}.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Experiment:
    """One idea being carried out."""

    id: ExperimentId
    direction_id: DirectionId
    idea_id: IdeaId
    name: str
    index: int
    state: ExperimentState = ExperimentState.QUEUED
    hold: Hold = Hold.NONE
    files: Mapping[str, str] = field(default_factory=dict)
    """The working copy: path to SHA-256. Moves forward with each edit."""
    added: Mapping[str, str] = field(default_factory=dict)
    """What its idea asked for of the catalogue, as template files beside the direction's: path to SHA-256."""
    baseline_id: RunId | None = None
    outcome: ExperimentOutcome | None = None
    label: str = ""
    """Such as `not_comparable: screen_only`."""
    notes: str = ""
    products: Mapping[str, str] = field(default_factory=dict)
    """Everything else of the finished folder: path below the experiment's folder to SHA-256."""
    draft: Mapping[str, str] = field(default_factory=dict)
    """The paper while it is being written: section to LaTeX."""
    limitations: tuple[str, ...] = ()
    plan: str = ""
    """What a person wrote in the place of the idea's own plan; empty where that holds."""
    replicates: ExperimentId | None = None
    """The confirmed experiment whose method it repeats."""
    forked_from: ExperimentId | None = None
    from_step: str = ""
    """The first step that a fork does itself; what came before is shared by hash."""
    edited: tuple[str, ...] = ()
    """What a person changed before that: paths, `notes`, `plan`."""
    created_at: float = 0.0
    ended_at: float | None = None
    error: str = ""

    def seen(self, direction: Direction) -> Direction:
        """Return its direction with what was added for this experiment among the template's files."""
        files = {**direction.template_files, **self.added}
        return dataclasses.replace(direction, template_files=files) if self.added else direction

    def planned(self, idea: Idea) -> Idea:
        """Return the idea as it is carried out here."""
        return dataclasses.replace(idea, experiment=self.plan) if self.plan else idea

    def to(self, state: ExperimentState, **changes: object) -> Experiment:
        """Return this experiment moved to `state`; `ConflictError` when the table does not allow it."""
        if state not in EXPERIMENT_MOVES[self.state]:
            raise ConflictError(f"An experiment that is {self.state} cannot become {state}.")
        return dataclasses.replace(self, state=state, **changes)  # type: ignore[arg-type]

    @property
    def is_final(self) -> bool:
        """Whether nothing more will happen."""
        return not EXPERIMENT_MOVES[self.state]


@dataclass(frozen=True, slots=True, kw_only=True)
class Execution:
    """A container job as the database knows it: what is wanted, and what came of it."""

    id: ExecutionId
    direction_id: DirectionId
    experiment_id: ExperimentId | None = None
    run_id: RunId | None = None
    kind: Kind
    image: str
    command: tuple[str, ...]
    inputs: Mapping[str, str] = field(default_factory=dict)
    """Path below the sandbox's root (`in/...`, `work/...`) to the SHA-256 of its bytes."""
    key_context: str = ""
    """When not empty, `/in/key` holds the installation secret's HMAC of this text; for `prepare` only."""
    collect: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    limits: Limits = field(default_factory=Limits)
    network: str = "none"
    """As its spec says it: `none`, or `allow:NAME,...` of capabilities."""
    llm_usd: float = 0.0
    """What its calls of a model may cost together, in US dollars, where its network grants `llm`."""
    sandbox: str = "auto"
    gpus: int = 0
    """How many it is to be given; which ones, the leases say."""
    gpu_memory_mib: int | None = None
    """What it needs of each; None has them alone."""
    alone: bool = False
    """Whether nothing else may run beside it, since its time is what is measured."""
    measured_as: str = ""
    """What it has in common with others whose peaks say what it will take; empty where nothing is known to."""
    state: ExecutionState = ExecutionState.WANTED
    fence: int = 0
    losses: int = 0
    """How often the platform lost it; tried again up to a ceiling."""
    outcome: Outcome | None = None
    created_at: float = 0.0
    launched_at: float | None = None

    def to(self, state: ExecutionState, **changes: object) -> Execution:
        """Return this execution moved to `state`; `ConflictError` when the table does not allow it."""
        if state not in EXECUTION_MOVES[self.state]:
            raise ConflictError(f"An execution that is {self.state} cannot become {state}.")
        return dataclasses.replace(self, state=state, **changes)  # type: ignore[arg-type]

    @property
    def may_ask_model(self) -> bool:
        """Whether its program is granted the direction's model."""
        return LLM in granted_names(self.network)

    @property
    def artifacts(self) -> Mapping[str, Artifact]:
        """What came out, by path; empty before it was collected."""
        return {item.path: item for item in self.outcome.artifacts} if self.outcome else {}

    @property
    def succeeded(self) -> bool:
        """Whether it was collected with the verdict `succeeded`."""
        return self.outcome is not None and self.outcome.verdict is Verdict.SUCCEEDED
