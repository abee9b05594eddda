"""Having the data drawn: what runs train on, and the answers that only the evaluator sees."""

from __future__ import annotations

from fumehood.domain.direction import Direction
from fumehood.domain.execution import Kind
from fumehood.domain.step import Step
from fumehood.domain.template import Profile, Template
from fumehood.ports import Transaction
from fumehood.services import templates, trials
from fumehood.services.change import Change, Next, happened
from fumehood.services.wanting import frozen, wanted
from fumehood.services.world import WriteWorld

PARTS = ("train", "answers", "inputs")


def parts_of(template: Template) -> tuple[str, ...]:
    """Return what is drawn; inputs without labels only where a model is asked to predict from them."""
    return PARTS if template.query and template.query.kind == "predict" else PARTS[:2]


def seeds_of(direction: Direction, profile: Profile) -> tuple[int, ...]:
    """Return the seeds of a direction's runs: the profile's, moved on by the direction's own."""
    return tuple(seed + 1000 * direction.seed for seed in profile.seeds)


def prepare(world: WriteWorld, step: Step) -> Change:
    """Have the data drawn, each part by an execution of its own that holds the key."""
    with world.store.begin(write=False) as tx:
        direction = tx.directions.get(step.direction_id)
    if "prepare.py" not in direction.template_files:
        return Change(steps=(_baseline_next(direction),))
    template, profile = templates.read(direction, world.artifacts)
    seeds = ",".join(map(str, seeds_of(direction, profile))) or "0"
    files = {f"in/template/{path}": sha for path, sha in frozen(direction, template.editable).items()}
    drawing = tuple(
        wanted(
            world.clock,
            direction,
            profile,
            Kind.PREPARE,
            command=(
                *("python", "/in/template/prepare.py", "--arm=screen", f"--part={part}", "--key=/in/key"),
                *(f"--seeds={seeds}", "--out_dir=/work", *template.prepare.arguments, *profile.prepare_arguments),
            ),
            inputs=files,
            key_context=f"{templates.template_hash(direction.template_files)}:screen",
            collect=("**",),
        )
        for part in parts_of(template)
    )
    following = Next(
        name="prepared",
        key=f"prepared:{direction.id}",
        direction_id=direction.id,
        waits_for=tuple(one.id for one in drawing),
    )
    return Change(executions=drawing, steps=(following,))


def prepared(world: WriteWorld, step: Step) -> Change:
    """Go on to the baseline, or end the direction when the data could not be drawn."""
    with world.store.begin(write=False) as tx:
        direction = tx.directions.get(step.direction_id)
        parts = [tx.executions.get(one) for one in step.waits_for]
    for part in parts:
        if not part.succeeded:
            why = f"prepare.py ended {trials.verdict_of(part)}: {trials.tail_of(part)}"
            return trials.broken(world, direction, why)
    event = happened(world.clock, direction, "data.prepared", "data drawn and held back")
    return Change(steps=(_baseline_next(direction),), events=(event,))


def data_of(tx: Transaction, direction: Direction) -> dict[str, dict[str, str]]:
    """Return the prepared data: part to path to SHA-256; empty for a template that prepares nothing."""
    found: dict[str, dict[str, str]] = {}
    for one in tx.executions.find(direction_id=direction.id, kind=Kind.PREPARE):
        for part in PARTS:
            if f"--part={part}" in one.command and one.succeeded:
                found[part] = {path: item.sha256 for path, item in one.artifacts.items()}
    return found


def _baseline_next(direction: Direction) -> Next:
    return Next(name="baseline", key=f"baseline:{direction.id}", direction_id=direction.id)
