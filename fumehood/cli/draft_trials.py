"""A model's draft under way: the direction that stands for it, and measuring and trying what lies in its folder."""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fumehood.artifacts.signing import derive_key, installation_secret
from fumehood.cli import baseline, checks, draft_notes, drafting, left_behind
from fumehood.cli.children import Children, gateway, halt, workers
from fumehood.cli.draft_notes import Notes
from fumehood.cli.output import Progress
from fumehood.cli.run import raise_for
from fumehood.domain.direction import Direction, DirectionState
from fumehood.domain.execution import ExecutionState
from fumehood.domain.experiment import Execution
from fumehood.domain.ids import DirectionId
from fumehood.domain.policy import PolicyVerdict
from fumehood.domain.tenant import LOCAL_ACTOR, LOCAL_TENANT
from fumehood.errors import BadInputError, FumehoodError
from fumehood.ports import Store, Transaction
from fumehood.services import audit, draft_arrays, draft_checks, screening, steps, submissions, templates, tenants
from fumehood.services.change import Change
from fumehood.services.draft_answers import Given
from fumehood.services.draft_checks import Check
from fumehood.services.drafting import Sort
from fumehood.settings import Settings
from fumehood.store.clock import SystemClock
from worker import worlds

POLL_S = 0.1


@dataclass(slots=True, kw_only=True)
class Draft:
    """A draft under way."""

    settings: Settings
    out: Path
    given: Given
    direction: Direction
    profile: str
    sandbox: str
    progress: Progress
    notes: Notes
    files: dict[str, str] = field(default_factory=dict)
    """Path to SHA-256 of what was measured."""
    measured: dict[str, Any] = field(default_factory=dict)
    checks: list[Check] = field(default_factory=list)
    answered: dict[str, bytes] = field(default_factory=dict)
    """The programs of the model's last answer, whether they could be taken or not."""

    @property
    def is_blocked(self) -> bool:
        """Whether it cannot be approved, whoever asks for it."""
        return any(one.blocks and not one.held for one in self.checks)

    def keep(self, **changes: object) -> None:
        """Write down where it stands."""
        self.notes = self.notes.model_copy(update=changes)
        draft_notes.replace(self.out / templates.DRAFT, self.notes.sealed(self.settings).text())


@contextmanager
def under_way(settings: Settings, out: Path, given: Given, notes: Notes, sandbox: str) -> Iterator[Direction]:
    """Keep a direction that stands for the draft while it is made: what its calls and executions are booked on.

    It has no steps of its own, so that no worker takes it up, and ends with this command, however that ends; where the
    command is killed, the next one ends it. It may cost what the draft's earlier ones left of the budget.
    """
    left_behind.end(settings)
    store, clock = worlds.store_of(settings), SystemClock()
    left = None if notes.budget_usd is None else max(0.0, notes.budget_usd - spent(settings, notes))
    direction = Direction(
        id=DirectionId(clock.new_id("dir")),
        tenant=LOCAL_TENANT,
        template=out.name,
        text=given.words or f"Draft a template around {given.program or 'a program'}.",
        model=notes.model,
        review_model=notes.model,
        profile="tiny",
        ideas=0,
        runs=0,
        sandbox=sandbox,
        budget_usd=left,
        created_at=clock.now(),
    )
    with worlds.only_one(worlds.command_lock(settings, direction.id)):
        _begin(settings, store, direction)
        end = DirectionState.CANCELLED
        try:
            yield direction.to(DirectionState.IDEATING)
            end = DirectionState.DONE
        except FumehoodError:
            end = DirectionState.FAILED
            raise
        finally:
            with store.begin() as tx:
                now = tx.directions.get(direction.id)
                if not now.is_final:
                    tx.directions.save(now.to(end, ended_at=clock.now()))
            store.close()


def _begin(settings: Settings, store: Store, direction: Direction) -> None:
    """Store a draft's direction, unless the policy's rules have something against what it is about."""
    clock, policy = SystemClock(), screening.load(settings.policy)
    told = screening.of_direction(direction)
    found = screening.by_rules(policy, direction, told)
    with store.begin() as tx:
        screening.note(tx, clock, policy, direction, told, found, LOCAL_ACTOR)
        if found.verdict is PolicyVerdict.ALLOWED:
            tenants.room(tx, LOCAL_TENANT).take()
            tx.directions.save(direction.to(DirectionState.IDEATING))
            of = {"tenant": LOCAL_TENANT, "subject": direction.id, "model": direction.model}
            audit.note(tx, clock, LOCAL_ACTOR, "template.drafted", **of)
    if found.verdict is not PolicyVerdict.ALLOWED:
        raise screening.refusal(found)


def spent(settings: Settings, notes: Notes) -> float:
    """Return what the calls for a draft have cost, of all its commands, in US dollars."""
    store = worlds.store_of(settings)
    try:
        with store.begin(write=False) as tx:
            return round(sum(tx.ledger.spent_usd(DirectionId(one)) for one in notes.directions), 6)
    finally:
        store.close()


def tried(draft: Draft) -> str:
    """Measure and try what lies in the folder; returns what is wrong with it, if anything."""
    draft.measured, draft.checks = {}, []
    draft.files = drafting.hashes(draft.out)
    with tempfile.TemporaryDirectory(prefix="fumehood-draft-") as scratch:
        copy = Path(scratch) / draft.out.name
        shutil.copytree(draft.out, copy, symlinks=True, ignore=shutil.ignore_patterns(templates.DRAFT, "run_*"))
        asked = submissions.Submission(template=str(copy), profile=draft.profile, sandbox=draft.sandbox, ideas=1)
        try:
            drafting.check(copy)
            checks.draft(asked)
        except FumehoodError as error:
            return str(error)
        done = baseline.carry_out(draft.settings, asked, draft.progress)
    store, artifacts = worlds.store_of(draft.settings), worlds.artifacts_of(draft.settings)
    try:
        if done.direction.state is DirectionState.FAILED and not done.direction.error.startswith("the platform"):
            return done.direction.error
        raise_for(done.direction, store, artifacts)
        draft.measured = baseline.told_of(done, artifacts)
        return _checked(draft, done)
    except BadInputError as error:
        draft.measured = {}
        return str(error)
    finally:
        store.close()


def _checked(draft: Draft, done: baseline.Measured) -> str:
    """Try the frozen pair in the sandbox; what does not hold goes back to a model that wrote it."""
    store, artifacts, clock = worlds.store_of(draft.settings), worlds.artifacts_of(draft.settings), SystemClock()
    try:
        template, profile = templates.read(done.direction, artifacts)
        with store.begin(write=False) as tx:
            jobs = _jobs(tx, done)
        if done.run is None:
            raise BadInputError("The baseline has no run.")
        base = draft_arrays.of_baseline(template, profile, done.run.seeds, jobs, artifacts.get(done.run.final_info))
        arrays = draft_arrays.arrays_of(base, artifacts)
        direction = dataclasses.replace(draft.direction, template_files=done.direction.template_files)
        wanted = draft_checks.wanted_for(clock, direction, base, arrays, artifacts)
        draft.progress.start(f"trying prepare.py and evaluate.py {len(wanted)} times")
        with store.begin() as tx:
            steps.save(tx, clock, Change(executions=tuple(wanted.values())))
        _follow(draft, done.sandbox)
        with store.begin(write=False) as tx:
            ended = {name: tx.executions.get(one.id) for name, one in wanted.items()}
        key = derive_key(installation_secret(draft.settings.state_dir), base.drew["train"].key_context)
        draft.checks = draft_checks.look(base, arrays, ended, artifacts, key)
    finally:
        draft.progress.stop()
        store.close()
    if draft.notes.sort != Sort.WRITTEN:
        return ""
    return "\n".join(f"This does not hold: {one.sentence}." for one in draft.checks if not one.held)


def _jobs(tx: Transaction, done: baseline.Measured) -> tuple[Execution, ...]:
    """Return the executions that measured a baseline; those of an earlier one, where it was taken from the cache."""
    key = done.run.cache_key if done.run else ""
    same = [one.direction_id for one in tx.runs.find(cache_key=key)] if key else []
    of = dict.fromkeys([*same, done.direction.id])
    return tuple(job for direction_id in of for job in tx.executions.find(direction_id=direction_id) if job.succeeded)


def _follow(draft: Draft, sandbox: str) -> None:
    """Have the draft's executions carried out, and wait until nothing of them is left on the machine."""
    settings, direction_id = draft.settings, draft.direction.id
    store = worlds.store_of(settings)
    try:
        with Children(settings, (gateway(), *workers(sandbox, direction_id))) as children:
            while True:
                with store.begin(write=False) as tx:
                    left = [
                        one
                        for one in tx.executions.find(direction_id=direction_id)
                        if one.state is not ExecutionState.REMOVED
                    ]
                if not left:
                    return
                children.check()
                time.sleep(POLL_S)
    except KeyboardInterrupt:
        draft.progress.say("interrupted: stopping what runs; --resume goes on from here")
        halt(settings, sandbox, direction_id)
        raise
    finally:
        store.close()
