"""Replication: a confirmed paper's method section alone, and the template's code as it is, must lead to the same gain.

Another coder's conversation writes the code; it sees neither the code, the runs, the notes nor the title of the study.
What it writes is screened once and confirmed by the direction's rule, as any idea is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fumehood.domain.direction import Direction
from fumehood.domain.experiment import Experiment, ExperimentOutcome
from fumehood.domain.idea import Decision, Idea, IdeaKind, Score
from fumehood.domain.ids import ExperimentId, IdeaId
from fumehood.services import ideas, placeholders, prose, templates
from fumehood.services.change import Change, happened
from fumehood.services.world import WriteWorld

SECTION = "method"
LONGEST = 12_000
"""Characters of a method section that a coder is shown."""
TITLE = "A replication"
"""What the coder reads in the place of the study's title."""
PREFIX = "replicate_"
RUNS = 1
RESULTS: Mapping[ExperimentOutcome, str] = {
    ExperimentOutcome.CONFIRMED: "supports",
    ExperimentOutcome.REFUTED: "refutes",
    ExperimentOutcome.INCONCLUSIVE: "inconclusive",
}
"""What a replication's outcome says of the study that it repeats."""


def runs_of(direction: Direction, experiment: Experiment) -> int:
    """Return how many runs an experiment has at most; a replication has one."""
    return RUNS if experiment.replicates else direction.runs


def is_wanted(world: WriteWorld, direction: Direction, experiment: Experiment) -> bool:
    """Whether a study that has just ended is to be replicated: where the setting says so, what was confirmed, once."""
    return (
        world.replicate
        and direction.rule is not None
        and experiment.outcome is ExperimentOutcome.CONFIRMED
        and experiment.replicates is None
        and bool(experiment.draft.get(SECTION))
    )


def begun(world: WriteWorld, direction: Direction, experiment: Experiment) -> Change:
    """Return the replication of a confirmed study, to be carried out after the direction's other experiments."""
    with world.store.begin(write=False) as tx:
        known = tx.experiments.find(direction_id=direction.id)
        proposed = tx.ideas.find(direction_id=direction.id)
    if any(one.replicates == experiment.id for one in known):
        return Change()
    original = next(one for one in proposed if one.id == experiment.idea_id)
    taken = {one.name for one in known} | {one.name for one in proposed}
    nobody = Score(value=0, reason="a replication, and not scored")
    idea = Idea(
        id=IdeaId(world.clock.new_id("idea")),
        direction_id=direction.id,
        index=max((one.index for one in proposed), default=-1) + 1,
        name=ideas.free_name(f"{PREFIX}{experiment.name}", taken),
        title=f"Replication of {original.title}",
        experiment=method_of(experiment),
        interestingness=nobody,
        feasibility=nobody,
        novelty_score=nobody,
        scored_by="platform",
        kind=IdeaKind.REPLICATION,
        hypothesis=original.hypothesis,
        metric=original.metric,
        expected=original.expected,
        changes=original.changes,
        created_at=world.clock.now(),
        decision=Decision.APPROVED,
    )
    made = Experiment(
        id=ExperimentId(world.clock.new_id("exp")),
        direction_id=direction.id,
        idea_id=idea.id,
        name=idea.name,
        index=max(one.index for one in known) + 1,
        files=templates.start_of(direction),
        added=experiment.added,
        baseline_id=experiment.baseline_id,
        replicates=experiment.id,
        created_at=world.clock.now(),
    )
    event = happened(world.clock, made, "replication.queued", f"{made.name}: {experiment.name} is to be replicated")
    return Change(ideas=(idea,), experiments=(made,), events=(event,))


def method_of(experiment: Experiment) -> str:
    """Return a paper's method section in plain words: without numbers, works and floats, which are not the method."""
    return prose.plain(placeholders.MARK.sub("", experiment.draft[SECTION]))[:LONGEST].strip()


def of(experiment: Experiment, known: Sequence[Experiment]) -> dict[str, str] | None:
    """Return what the replication of an experiment came to; None where there is none, `open` until it has ended."""
    found = next((one for one in known if one.replicates == experiment.id), None)
    if found is None:
        return None
    result = RESULTS[found.outcome] if found.outcome else "inconclusive" if found.is_final else "open"
    return {"experiment": found.name, "state": found.state.value, "result": result}
