"""Giving an experiment what its idea asked for of the catalogue: fetched and checked, drawn, and a baseline on it.

The platform does it, before the experiment's first run. What cannot be given waits for an admin, who adds the entry,
mends what was wrong, or refuses the idea; an admin's approval has it looked for once more.
"""

from __future__ import annotations

import dataclasses

from fumehood.domain import catalogue as entries
from fumehood.domain.catalogue import ASKED, Entry
from fumehood.domain.direction import Direction, Hold
from fumehood.domain.experiment import Arm, Experiment
from fumehood.domain.ids import ExperimentId
from fumehood.domain.step import Step
from fumehood.domain.tenant import PLATFORM
from fumehood.errors import BadInputError, NotFoundError
from fumehood.ports import Delivered, Delivery
from fumehood.services import audit, catalogue, preparing, templates, trials
from fumehood.services.calls import claims_for
from fumehood.services.change import Again, Change, Next, happened
from fumehood.services.world import WriteWorld

ROLE = "catalogue"
"""Of the token by which the gateway is asked for a file."""
AWAY_TRIES = 3
"""How often a file is asked for again that cannot be had, before an admin is."""
AWAY_WAIT_S = 10.0
LOOK_AGAIN_S = 2.0
"""How long to wait for a file that is on its way."""
_AWAY = "away"


def fetch_asked(world: WriteWorld, step: Step) -> Change:
    """Have what an idea asked for fetched, and the data drawn with it among the template's files."""
    with world.store.begin(write=False) as tx:
        experiment = tx.experiments.get(ExperimentId(str(step.experiment_id)))
        direction = tx.directions.get(experiment.direction_id)
        idea = tx.ideas.get(experiment.idea_id)
    template, _ = templates.read(direction, world.artifacts)
    with world.store.begin(write=False) as tx:
        found, why = catalogue.given(tx, direction, template, idea.requests)
    if why:
        return _wait(world, step, experiment, why)
    for entry in found:
        came = _deliver(world, direction, experiment, entry)
        if came.state is Delivered.REFUSED:
            return _wait(world, step, experiment, f"it asks for {entry.id}, which cannot be used: {came.reason}")
        if came.state is Delivered.AWAY:
            return _away(world, step, experiment, entry, came)
        if came.state is Delivered.UNDER_WAY or came.sha256 != entry.sha256:
            return Change(again=Again(delay_s=LOOK_AGAIN_S, payload={}))
    return _given(world, direction, experiment, found)


def _deliver(world: WriteWorld, direction: Direction, experiment: Experiment, entry: Entry) -> Delivery:
    """Return how it stands with an entry; where nobody fetches, as in a replay, what is here already will do."""
    came = Delivery(state=Delivered.AWAY, reason="nobody here can fetch it")
    if world.fetcher is not None:
        came = world.fetcher.fetch(claims_for(world, direction, ROLE, experiment=experiment), entry.id)
    if came.state is not Delivered.AWAY:
        return came
    try:
        catalogue.check_file(entry, world.artifacts.path(entry.sha256))
    except NotFoundError:
        return came
    except BadInputError as error:
        return Delivery(state=Delivered.REFUSED, reason=str(error))
    return Delivery(state=Delivered.HERE, sha256=entry.sha256)


def _away(world: WriteWorld, step: Step, experiment: Experiment, entry: Entry, came: Delivery) -> Change:
    tries = int(step.payload.get(_AWAY, 0)) + 1
    if tries > AWAY_TRIES:
        return _wait(world, step, experiment, f"it asks for {entry.id}, which cannot be had now: {came.reason}")
    event = happened(world.clock, experiment, "data.away", f"{experiment.name}: {entry.id} is away: {came.reason}")
    return Change(again=Again(delay_s=AWAY_WAIT_S * tries, payload={_AWAY: tries}), events=(event,))


def _wait(world: WriteWorld, step: Step, experiment: Experiment, why: str) -> Change:
    """Hold an experiment until an admin has settled what is in its way; then all of it is looked at anew."""
    with world.store.begin(write=False) as tx:
        idea = tx.ideas.get(experiment.idea_id)
    again = Next(
        name="fetch_asked",
        key=f"fetch_asked:{experiment.id}:{step.id}",
        direction_id=experiment.direction_id,
        experiment_id=experiment.id,
    )
    return Change(
        ideas=(idea.lacking(why),),
        experiments=(dataclasses.replace(experiment, hold=Hold.POLICY),),
        steps=(again,),
        events=(happened(world.clock, experiment, Hold.POLICY.value, f"held: {experiment.name}: {why}"),),
    )


def _given(world: WriteWorld, direction: Direction, experiment: Experiment, found: tuple[Entry, ...]) -> Change:
    added = {entry.place: entry.sha256 for entry in found}
    added[ASKED] = world.artifacts.put(entries.document(found))
    experiment = dataclasses.replace(experiment, added=added)
    direction = experiment.seen(direction)
    template, _ = templates.read(direction, world.artifacts)
    seeds = preparing.screened_seeds(world, direction)
    with world.store.begin(write=False) as tx:
        # Another idea of this direction may have asked for the same.
        there = preparing.data_of(tx, direction, Arm.SCREEN, seeds)
    parts = [part for part in preparing.parts_of(template) if part not in there]
    drawing = tuple(preparing.drawn(world, direction, Arm.SCREEN, part, seeds, experiment.id) for part in parts)
    following = Next(
        name="asked_drawn",
        key=f"asked_drawn:{experiment.id}",
        direction_id=direction.id,
        experiment_id=experiment.id,
        waits_for=tuple(one.id for one in drawing),
    )
    told = ", ".join(f"{one.id} ({one.licence}, SHA-256 {one.sha256})" for one in found)
    event = happened(world.clock, experiment, "data.given", f"{experiment.name}: given {told}; the baseline follows")
    noted = tuple(
        audit.entry(
            world.clock,
            PLATFORM,
            "catalogue.given",
            tenant=direction.tenant,
            subject=entry.id,
            sha256=entry.sha256,
            experiment=experiment.id,
        )
        for entry in found
    )
    return Change(experiments=(experiment,), executions=drawing, steps=(following,), events=(event,), audit=noted)


def asked_drawn(world: WriteWorld, step: Step) -> Change:
    """Go on to the baseline on these data, or end the experiment where they could not be drawn."""
    with world.store.begin(write=False) as tx:
        experiment = tx.experiments.get(ExperimentId(str(step.experiment_id)))
        parts = [tx.executions.get(one) for one in step.waits_for]
    if why := preparing.undrawn(parts):
        return trials.given_up(world, experiment, f"with what was asked for of the catalogue {why}")
    baseline = Next(
        name="baseline",
        key=f"baseline:{experiment.id}",
        direction_id=experiment.direction_id,
        experiment_id=experiment.id,
    )
    return Change(steps=(baseline,))


STEPS = {"fetch_asked": fetch_asked, "asked_drawn": asked_drawn}
