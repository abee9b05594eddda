"""Submitting directions: what is asked is checked, and then accepted together with what else waits to be."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fumehood.domain.audit import AuditEntry
from fumehood.domain.direction import (
    LEAST_PRIORITY,
    MOST_PRIORITY,
    STRATEGIES,
    Approve,
    Direction,
    Hold,
    Reviewing,
)
from fumehood.domain.ids import DirectionId, ExperimentId, TenantId
from fumehood.domain.policy import Policy, PolicyVerdict, Screening
from fumehood.domain.step import Event
from fumehood.domain.tenant import LOCAL_ACTOR, LOCAL_TENANT
from fumehood.errors import BadInputError, FumehoodError
from fumehood.observe import traces
from fumehood.ports import Artifacts, Clock, Store, Transaction
from fumehood.services import audit, extra_packages, lineage, screening, templates, tenants
from fumehood.services.change import Next, happened
from fumehood.services.known_templates import KnownTemplates, Read
from fumehood.services.lineage import Parent
from fumehood.services.queueing import enqueue
from fumehood.services.replies import Once, keep, made_by

ARM, SEEDS = "arm", "seeds"
"""What a direction's first steps may say of the data to be drawn; the seeds in one text, by commas."""
MAX_TEXT = 20_000
MAX_IDEAS = 500
MAX_RUNS = 20
MAX_SEED = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """What a researcher asks for."""

    template: str
    text: str | None = None
    """None means the template's own task; an empty text is an error."""
    model: str = "offline"
    review_model: str | None = None
    profile: str = "cpu"
    ideas: int = 50
    runs: int = 5
    novelty: bool = True
    seed: int = 0
    sandbox: str = "auto"
    budget_usd: float | None = None
    budget_usd_per_experiment: float | None = None
    budget_usd_per_call: float | None = None
    budget_gpu_s: float | None = None
    budget_wall_s: float | None = None
    priority: int = 0
    parent: str | None = None
    """The id of a confirmed experiment whose code is the new baseline."""
    strategy: str = "list"
    reviewing: Reviewing = field(default_factory=Reviewing)
    approve: Approve = Approve.AUTO
    packages: tuple[str, ...] = ()
    """Lists of packages beside the lab's and the template's own, as a person at this machine gave them; never from the
    network."""
    wheels: tuple[Path, ...] = ()
    """The same, as files."""
    tenant: TenantId = LOCAL_TENANT
    actor: str = LOCAL_ACTOR
    """Whose key it came with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """A submission that nothing is wrong with, as the direction that it means, and what the policy's rules say."""

    direction: Direction
    actor: str
    first: Next
    """The step that it begins with."""
    policy: Policy
    told: screening.Text
    found: Screening
    once: Once | None = None


def submit(
    store: Store,
    artifacts: Artifacts,
    clock: Clock,
    asked: Submission,
    shipped: Path,
    *,
    baseline_only: bool = False,
    once: Once | None = None,
    policy: Policy = screening.NO_POLICY,
    known_templates: KnownTemplates | None = None,
) -> Direction:
    """Check what is asked, keep a snapshot of the template, and make the first step due."""
    checked = check(
        *(store, artifacts, clock, asked, shipped),
        baseline_only=baseline_only,
        once=once,
        policy=policy,
        known_templates=known_templates,
    )
    (made,) = accept(store, clock, (checked,))
    if isinstance(made, FumehoodError):
        raise made
    return made


def submit_again(
    store: Store, clock: Clock, direction: Direction, policy: Policy, data: Mapping[str, str] | None = None
) -> Direction:
    """Make the first step of a recorded direction due, whose files are kept already, in a database that lacks it.

    `data` says by `ARM` and `SEEDS` for what data are drawn; else it is for the baseline in the screen.
    """
    first = first_step(direction.id)
    told = screening.of_direction(direction)
    checked = Checked(
        direction=direction,
        actor=LOCAL_ACTOR,
        first=dataclasses.replace(first, payload={**first.payload, **(data or {})}),
        policy=policy,
        told=told,
        found=screening.by_rules(policy, direction, told),
    )
    (made,) = accept(store, clock, (checked,))
    if isinstance(made, FumehoodError):
        raise made
    return made


def check(
    store: Store,
    artifacts: Artifacts,
    clock: Clock,
    asked: Submission,
    shipped: Path,
    *,
    baseline_only: bool = False,
    shipped_only: bool = False,
    once: Once | None = None,
    policy: Policy = screening.NO_POLICY,
    known_templates: KnownTemplates | None = None,
) -> Checked:
    """Return what a submission means, with a snapshot of the template kept, or refuse it in one sentence.

    What a rule of the policy wants a person for is held. The worker screens again, with the judge, so a door that was
    given no policy lets nothing through. With `shipped_only` a template is a shipped one's name and never a path, as
    for callers on the network. What is known of templates is not read again.
    """
    if shipped_only and asked.template not in templates.names(shipped):
        raise BadInputError(f"There is no template {asked.template!r}.")
    parent = None
    if asked.parent is not None:
        with store.begin(write=False) as tx:
            parent = lineage.parent_of(tx, asked.tenant, ExperimentId(asked.parent))
    direction = draft(artifacts, clock, asked, shipped, parent, known_templates)
    if baseline_only:
        direction = dataclasses.replace(direction, ideas=0)
    told = screening.of_direction(direction)
    found = screening.by_rules(policy, direction, told)
    is_held = found.verdict is PolicyVerdict.NEEDS_A_PERSON
    if is_held:
        direction = dataclasses.replace(direction, hold=Hold.POLICY)
    return Checked(
        direction=direction,
        actor=asked.actor,
        first=first_step(direction.id, is_screened=is_held),
        policy=policy,
        told=told,
        found=found,
        once=once,
    )


def check_and_accept(
    store: Store, clock: Clock, asked: Sequence[Callable[[], Checked]]
) -> tuple[Direction | Exception, ...]:
    """Check what came at once and accept what is in order together; return of each what came of it."""
    checked = [_tried(one) for one in asked]
    accepted = iter(accept(store, clock, [one for one in checked if isinstance(one, Checked)]))
    return tuple(next(accepted) if isinstance(one, Checked) else one for one in checked)


def _tried(check: Callable[[], Checked]) -> Checked | Exception:
    try:
        return check()
    except Exception as error:  # noqa: BLE001 - what is wrong with one is no concern of the others
        return error


def accept(store: Store, clock: Clock, asked: Sequence[Checked]) -> tuple[Direction | FumehoodError, ...]:
    """Store the directions in one transaction and make their first steps due; return of each what came of it.

    A quota counts those before it. What a rule of the policy refuses comes to a `PolicyError`, and of it only the audit
    tells; what was made of the same request before is returned again.
    """
    with store.begin() as tx:
        batch = _Batch(tx, clock)
        answers = tuple(batch.take(one) for one in asked)
        batch.write()
    return answers


class _Batch:
    """What is accepted in one transaction, written with one statement for each table however much it is."""

    def __init__(self, tx: Transaction, clock: Clock) -> None:
        self._tx = tx
        self._clock = clock
        self._room: dict[TenantId, tenants.Room] = {}
        self._accepted: dict[str, Checked] = {}

    def take(self, one: Checked) -> Direction | FumehoodError:
        """Return the direction that is accepted now or was before, or why it is not."""
        try:
            if known := made_by(self._tx, self._clock, one.once):
                return self._accepted[known].direction if known in self._accepted else self._tx.directions.get(known)
            if one.found.verdict is PolicyVerdict.REFUSED:
                screening.note(self._tx, self._clock, one.policy, one.direction, one.told, one.found, one.actor)
                return screening.refusal(one.found)
            tenant = one.direction.tenant
            if tenant not in self._room:
                self._room[tenant] = tenants.room(self._tx, tenant)
            self._room[tenant].take()
        except FumehoodError as error:
            return error
        keep(self._tx, self._clock, one.once, one.direction.id)
        self._accepted[one.direction.id] = one
        return one.direction

    def write(self) -> None:
        """Write what was accepted."""
        tx, clock, accepted = self._tx, self._clock, self._accepted.values()
        tx.directions.save(*(one.direction for one in accepted))
        tx.audit.append(*(entry for one in accepted for entry in self._entries(one)))
        enqueue(tx, clock, [one.first for one in accepted])
        tx.events.append(*(event for one in accepted for event in self._events(one)))

    def _entries(self, one: Checked) -> tuple[AuditEntry, ...]:
        direction = one.direction
        submitted = audit.entry(
            self._clock, one.actor, "direction.submitted", tenant=direction.tenant, subject=direction.id
        )
        return (*screening.entry(self._clock, one.policy, direction, one.told, one.found, one.actor), submitted)

    def _events(self, one: Checked) -> tuple[Event, ...]:
        direction = one.direction
        text = f"{direction.template} ({direction.profile}): {direction.ideas} ideas, {direction.runs} runs each"
        submitted = happened(self._clock, direction, "direction.submitted", text)
        return (submitted, *screening.events(self._clock, one.policy, direction, one.found))


def first_step(direction_id: DirectionId, *, is_screened: bool = False) -> Next:
    """Return the step that a direction begins with; it carries the trace that all others join.

    One that is screened waits for an admin, and goes on without being asked about again.
    """
    payload: dict[str, str | int | float | bool] = {**traces.carried()}
    if is_screened:
        payload["is_screened"] = True
    return Next(name="begin", key=f"begin:{direction_id}", direction_id=direction_id, payload=payload)


def draft(
    artifacts: Artifacts,
    clock: Clock,
    asked: Submission,
    shipped: Path,
    parent: Parent | None = None,
    known_templates: KnownTemplates | None = None,
) -> Direction:
    """Return the direction that a submission means, or refuse it in one sentence."""
    _check(asked)
    read = _inherited(artifacts, asked, parent) if parent else _shipped(artifacts, asked, shipped, known_templates)
    templates.profile_of(read.template, asked.profile)
    files = read.files
    if parent is None:
        files = extra_packages.settle(files, artifacts, read.template, asked.packages, asked.wheels)
    return Direction(
        id=DirectionId(clock.new_id("dir")),
        tenant=asked.tenant,
        template=read.name,
        text=asked.text.strip() if asked.text else read.task,
        model=asked.model,
        review_model=asked.review_model or asked.model,
        profile=asked.profile,
        ideas=asked.ideas,
        runs=asked.runs,
        novelty=asked.novelty,
        seed=asked.seed,
        sandbox=asked.sandbox,
        budget_usd=asked.budget_usd,
        budget_usd_per_experiment=asked.budget_usd_per_experiment,
        budget_usd_per_call=asked.budget_usd_per_call,
        budget_gpu_s=asked.budget_gpu_s,
        budget_wall_s=asked.budget_wall_s,
        priority=asked.priority,
        parent=parent.experiment.id if parent else None,
        parent_files=parent.code if parent else {},
        strategy=asked.strategy,
        reviewing=asked.reviewing,
        approve=asked.approve,
        template_files=files,
        created_at=clock.now(),
    )


def _check(asked: Submission) -> None:
    if asked.text is not None and not asked.text.strip():
        raise BadInputError("The direction's text is empty: say in a sentence or two what to look into.")
    if asked.text is not None and len(asked.text) > MAX_TEXT:
        raise BadInputError(f"The direction's text is longer than {MAX_TEXT} characters.")
    for name, value, most in (("ideas", asked.ideas, MAX_IDEAS), ("runs", asked.runs, MAX_RUNS)):
        if not 1 <= value <= most:
            raise BadInputError(f"The number of {name} must be from 1 to {most}, not {value}.")
    if not 0 <= asked.seed <= MAX_SEED:
        raise BadInputError(f"The seed must be from 0 to {MAX_SEED}, not {asked.seed}.")
    if not asked.model.strip() or (asked.review_model is not None and not asked.review_model.strip()):
        raise BadInputError("A model's name is needed, such as `offline`.")
    if asked.strategy not in STRATEGIES:
        raise BadInputError(f"There is no strategy {asked.strategy!r} yet; there is {', '.join(STRATEGIES)}.")
    if not LEAST_PRIORITY <= asked.priority <= MOST_PRIORITY:
        raise BadInputError(f"The priority must be from {LEAST_PRIORITY} to {MOST_PRIORITY}, not {asked.priority}.")
    check_budget(
        asked.budget_usd,
        asked.budget_gpu_s,
        asked.budget_wall_s,
        asked.budget_usd_per_experiment,
        asked.budget_usd_per_call,
    )


def check_budget(usd: float | None, gpu_s: float | None, wall_s: float | None, *narrower_usd: float | None) -> None:
    """Refuse a budget that is no finite number from zero on."""
    dollars = ((amount, "US dollars") for amount in (usd, *narrower_usd))
    for amount, of in (*dollars, (gpu_s, "GPU-seconds"), (wall_s, "seconds")):
        if amount is not None and not (math.isfinite(amount) and amount >= 0):
            raise BadInputError(f"The budget must be a number of {of} that is not negative.")


def _shipped(artifacts: Artifacts, asked: Submission, shipped: Path, known_templates: KnownTemplates | None) -> Read:
    """Return what a template says as it is now."""
    folder = templates.find(asked.template, shipped)
    return (known_templates or KnownTemplates()).read(folder, artifacts)


def _inherited(artifacts: Artifacts, asked: Submission, parent: Parent) -> Read:
    """Return the template that the parent began with, as it was then."""
    if asked.template != parent.direction.template:
        raise BadInputError(f"The parent's template is {parent.direction.template}, so {asked.template!r} cannot be.")
    files = dict(parent.direction.template_files)
    _, task = templates.prompt_of(files, artifacts)
    template = templates.load(files, artifacts, asked.template)
    return Read(name=asked.template, files=files, template=template, task=task)
