"""Having the data drawn: what runs train on, and the answers that only the evaluator sees."""

from __future__ import annotations

from collections.abc import Sequence

from fumehood.domain.catalogue import ASKED
from fumehood.domain.direction import Direction
from fumehood.domain.execution import Kind
from fumehood.domain.experiment import Arm, Execution
from fumehood.domain.ids import ExperimentId
from fumehood.domain.step import Step
from fumehood.domain.template import Template
from fumehood.ports import Transaction
from fumehood.services import templates, trials
from fumehood.services.change import Change, Next, happened
from fumehood.services.confirmation_rule import baseline_seeds
from fumehood.services.submissions import ARM, SEEDS
from fumehood.services.wanting import frozen, wanted
from fumehood.services.world import WriteWorld

PARTS = ("train", "answers", "inputs")


def parts_of(template: Template) -> tuple[str, ...]:
    """Return what is drawn; inputs without labels only where a model is asked to predict from them."""
    return PARTS if template.query and template.query.kind == "predict" else PARTS[:2]


def prepare(world: WriteWorld, step: Step) -> Change:
    """Have the data drawn, each part by an execution of its own that holds the key."""
    with world.store.begin(write=False) as tx:
        direction = tx.directions.get(step.direction_id)
    if "prepare.py" not in direction.template_files:
        return Change(steps=(_baseline_next(direction),))
    template, _ = templates.read(direction, world.artifacts)
    # Of a record that is measured again, the data are those that it was measured on.
    seeds = _listed(str(step.payload[SEEDS])) if SEEDS in step.payload else screened_seeds(world, direction)
    arm = Arm(str(step.payload.get(ARM, Arm.SCREEN)))
    drawing = tuple(drawn(world, direction, arm, part, seeds) for part in parts_of(template))
    following = Next(
        name="prepared",
        key=f"prepared:{direction.id}",
        direction_id=direction.id,
        waits_for=tuple(one.id for one in drawing),
    )
    return Change(executions=drawing, steps=(following,))


def screened_seeds(world: WriteWorld, direction: Direction) -> tuple[int, ...]:
    """Return the seeds that the data of a direction's screen are drawn for."""
    _, profile = templates.read(direction, world.artifacts)
    return baseline_seeds(direction, profile) or (0,)


def drawn(
    world: WriteWorld,
    direction: Direction,
    arm: Arm,
    part: str,
    seeds: Sequence[int],
    experiment_id: ExperimentId | None = None,
) -> Execution:
    """Return the execution that draws a part of an arm's data for these seeds."""
    template, profile = templates.read(direction, world.artifacts)
    return wanted(
        world.clock,
        direction,
        profile,
        Kind.PREPARE,
        experiment_id=experiment_id,
        command=(
            *("python", "/in/template/prepare.py", f"--arm={arm}", f"--part={part}", "--key=/in/key"),
            *(_asked(seeds), "--out_dir=/work", *template.prepare.arguments, *profile.prepare_arguments),
        ),
        inputs={f"in/template/{path}": sha for path, sha in frozen(direction, template.editable).items()},
        key_context=_key_context(world, direction, arm),
        collect=("**",),
    )


def _key_context(world: WriteWorld, direction: Direction, arm: Arm) -> str:
    """Return what the key of an arm's data is for: screens of one template share it, a direction's sealed data never.

    What a direction has drawn already stays the same, whatever version of the platform drew it.
    """
    with world.store.begin(write=False) as tx:
        before = drawing_of(tx, direction)
    known = next((one.key_context for one in before if f"--arm={arm}" in one.command), "")
    whose = f"{direction.id}:" if arm is Arm.CONFIRM else ""
    return known or f"{templates.template_hash(direction.template_files)}:{whose}{arm}"


def prepared(world: WriteWorld, step: Step) -> Change:
    """Go on to the baseline, or end the direction when the data could not be drawn."""
    with world.store.begin(write=False) as tx:
        direction = tx.directions.get(step.direction_id)
        parts = [tx.executions.get(one) for one in step.waits_for]
    if why := undrawn(parts):
        return trials.broken(world, direction, why)
    event = happened(world.clock, direction, "data.prepared", "data drawn and held back")
    return Change(steps=(_baseline_next(direction),), events=(event,))


def data_of(
    tx: Transaction, direction: Direction, arm: Arm = Arm.SCREEN, seeds: Sequence[int] = ()
) -> dict[str, dict[str, str]]:
    """Return an arm's data that was drawn for all these seeds: part to path to SHA-256; empty where none was."""
    found: dict[str, dict[str, str]] = {}
    for one in _drawing(tx, direction, arm, seeds):
        for part in PARTS:
            if f"--part={part}" in one.command:
                found[part] = {path: item.sha256 for path, item in one.artifacts.items()}
    return found


def drawn_seeds(tx: Transaction, direction: Direction, arm: Arm, seeds: Sequence[int]) -> tuple[int, ...]:
    """Return all the seeds that the same data was drawn for, in their order; none where none was."""
    return next((_seeds(one) for one in reversed(_drawing(tx, direction, arm, seeds))), ())


def drawing_of(tx: Transaction, direction: Direction) -> tuple[Execution, ...]:
    """Return what draws, or drew, the data of a direction as it is seen: with what an idea asked for, or without."""
    asked = direction.template_files.get(ASKED)
    jobs = tx.executions.find(direction_id=direction.id, kind=Kind.PREPARE)
    return tuple(one for one in jobs if one.inputs.get(f"in/template/{ASKED}") == asked)


def _drawing(tx: Transaction, direction: Direction, arm: Arm, seeds: Sequence[int]) -> list[Execution]:
    drew = [one for one in drawing_of(tx, direction) if f"--arm={arm}" in one.command and one.succeeded]
    return [one for one in drew if {*seeds} <= {*_seeds(one)}]


def _asked(seeds: Sequence[int]) -> str:
    return f"--seeds={','.join(map(str, seeds))}"


def _seeds(execution: Execution) -> tuple[int, ...]:
    said = next((one for one in execution.command if one.startswith("--seeds=")), "--seeds=0")
    return _listed(said.removeprefix("--seeds="))


def _listed(seeds: str) -> tuple[int, ...]:
    return tuple(int(seed) for seed in seeds.split(","))


def _baseline_next(direction: Direction) -> Next:
    return Next(name="baseline", key=f"baseline:{direction.id}", direction_id=direction.id)


def undrawn(parts: Sequence[Execution]) -> str:
    """Return why data could not be drawn, in words; empty where they were."""
    for part in parts:
        if not part.succeeded:
            return f"prepare.py ended {trials.verdict_of(part)}: {trials.tail_of(part)}"
    return ""
