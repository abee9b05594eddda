"""Screening by the admin's policy: its rules wherever something comes in, its judge where models are asked.

Only write workers ask models. So what comes in over HTTP is looked at by the rules at once, and by the judge in the
first step that would use it.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel, Field

from fumehood.domain.audit import AuditEntry
from fumehood.domain.direction import Direction, Hold
from fumehood.domain.experiment import Experiment
from fumehood.domain.idea import Idea
from fumehood.domain.policy import (
    JUDGE,
    MOST_CHARACTERS,
    Judge,
    Policy,
    PolicyVerdict,
    Screening,
    Subject,
    parse,
    strictest,
)
from fumehood.domain.step import Event
from fumehood.domain.tenant import PLATFORM
from fumehood.errors import BadInputError, ModelUnavailableError, OverBudgetError, PolicyError
from fumehood.ports import Artifacts, Clock, Transaction
from fumehood.services.calls import claims_for, question
from fumehood.services.change import Change, happened
from fumehood.services.searching import search
from fumehood.services.world import WriteWorld

MOST_LINES = 5_000
"""Of a file, that are compared with what they were."""
SYSTEM = (
    "You judge whether research keeps to the rules of the platform that would carry it out. You do not carry it out."
)
NO_POLICY = Policy()


class JudgeAnswer(BaseModel):
    """A verdict as a model gives it; any word but the three is no answer."""

    verdict: str = Field(max_length=100, json_schema_extra={"enum": [one.value for one in PolicyVerdict]})
    reason: str = Field(default="", max_length=2000)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """What is looked at, and whose it is."""

    subject: Subject
    of: str
    """The id of the direction, the idea or the experiment."""
    text: str
    shown: str = ""
    """What the judge sees, where that is more than what the rules read."""


def load(path: str) -> Policy:
    """Return the policy of a file; `BadInputError` where it cannot be read or holds none. No path is no policy."""
    if not path:
        return NO_POLICY
    try:
        data = Path(path).read_bytes()
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise BadInputError(f"The policy file {path} (FUMEHOOD_POLICY) cannot be read: {why}.") from error
    return parse(data, path)


def of_direction(direction: Direction) -> Text:
    """Return what is looked at of a direction."""
    return Text(subject=Subject.DIRECTION, of=direction.id, text=direction.text)


def of_idea(idea: Idea) -> Text:
    """Return what is looked at of an idea: all that a later step reads."""
    words = (idea.name, idea.title, idea.experiment, idea.hypothesis, idea.metric, *idea.changes)
    return Text(subject=Subject.IDEA, of=idea.id, text="\n".join(word for word in words if word))


def of_diff(world: WriteWorld, experiment: Experiment, after: Mapping[str, str]) -> Text:
    """Return what is looked at of an edit: the rules read the lines that it adds, the judge the whole diff."""
    added: list[str] = []
    shown: list[str] = []
    changed = [path for path in sorted(after) if experiment.files.get(path) != after[path]]
    for path in changed if world.policy.asks(Subject.DIFF) else ():
        old, new = (_lines(world.artifacts, side.get(path)) for side in (experiment.files, after))
        if len(new) > MOST_LINES:
            # To compare so many takes long; all of them are looked at as if they were new.
            old = []
        lines = list(difflib.unified_diff(old, new, f"a/{path}", f"b/{path}", lineterm=""))
        shown += lines
        added += [line[1:] for line in lines[2:] if line.startswith("+")]
    return Text(subject=Subject.DIFF, of=experiment.id, text="\n".join(added), shown="\n".join(shown))


def _lines(artifacts: Artifacts, sha: str | None) -> list[str]:
    return artifacts.get(sha).decode(errors="replace").splitlines() if sha else []


def by_rules(policy: Policy, direction: Direction, told: Text) -> Screening:
    """Return what the rules say of a text."""
    return policy.by_rules(told.subject, told.text, template=direction.template, tenant=direction.tenant, search=search)


def screen(
    world: WriteWorld, direction: Direction, told: Text, *, experiment: Experiment | None = None, run: int = 0
) -> Screening:
    """Return what the rules and the judge say of a text; the strictest holds, and no answer is not a yes."""
    found = by_rules(world.policy, direction, told)
    judge = world.policy.judge
    if judge is None or not world.policy.judges(told.subject) or found.verdict is PolicyVerdict.REFUSED:
        return found
    if not (told.shown or told.text).strip():
        return found
    return strictest((found, _judged(world, judge, direction, told, experiment, run)))


def _judged(
    world: WriteWorld, judge: Judge, direction: Direction, told: Text, experiment: Experiment | None, run: int
) -> Screening:
    text = told.shown or told.text
    if len(text) > MOST_CHARACTERS:
        return _no_answer(f"it is longer than {MOST_CHARACTERS} characters, too long to be judged")
    prompt = world.prompts.render("judge", instructions=judge.instructions, kind=told.subject.value, text=text)
    claims = claims_for(
        world,
        direction,
        "judge",
        experiment=experiment,
        run=run,
        subject=told.subject.value,
        prompt=prompt,
    )
    claims = dataclasses.replace(claims, model=judge.model)
    call = question(world, claims, prompt, system=SYSTEM, max_tokens=1000, temperature=0.0)
    try:
        answer = world.model.answer(call, JudgeAnswer)
    except (ModelUnavailableError, OverBudgetError) as error:
        return _no_answer(f"it could not be asked ({str(error)[:300].rstrip('.')})")
    words = [one.value for one in PolicyVerdict]
    if answer.verdict not in words:
        return _no_answer("its answer was none of the three verdicts")
    reason = " ".join(answer.reason.split())[:500] or "it gave no reason"
    return Screening(verdict=PolicyVerdict(answer.verdict), rule=JUDGE, reason=reason)


def _no_answer(reason: str) -> Screening:
    return Screening(verdict=PolicyVerdict.NEEDS_A_PERSON, rule=JUDGE, reason=reason)


def entry(
    clock: Clock, policy: Policy, direction: Direction, told: Text, found: Screening, actor: str = PLATFORM
) -> tuple[AuditEntry, ...]:
    """Return the audit's entry of a verdict; what no rule and no judge spoke of needs none."""
    if not found.rule:
        return ()
    detail = {
        "about": told.subject.value,
        "verdict": found.verdict.value,
        "rule": found.rule,
        "reason": found.reason,
        "direction": direction.id,
        "text_sha256": hashlib.sha256((told.shown or told.text).encode(errors="replace")).hexdigest(),
        "policy_sha256": policy.sha256,
    }
    return (
        AuditEntry(
            id=clock.new_id("evt"),
            actor=actor,
            action="policy.screened",
            tenant=direction.tenant,
            subject=told.of,
            detail=detail,
            at=clock.now(),
        ),
    )


def note(
    tx: Transaction, clock: Clock, policy: Policy, direction: Direction, told: Text, found: Screening, actor: str
) -> None:
    """Write a verdict down in the transaction of what came of it."""
    tx.audit.append(*entry(clock, policy, direction, told, found, actor))


def events(
    clock: Clock, policy: Policy, of: Direction | Experiment, found: Screening, what: str = ""
) -> tuple[Event, ...]:
    """Return what people read of a verdict; of an idea only refused or noted, since it is its direction that waits."""
    if found.verdict is PolicyVerdict.ALLOWED:
        return ()
    data = {"rule": found.rule, "verdict": found.verdict.value, "policy_sha256": policy.sha256}
    text = f"{what}: {found.sentence}" if what else found.sentence
    if found.verdict is PolicyVerdict.REFUSED:
        return (dataclasses.replace(happened(clock, of, "policy.refused", text), data=data),)
    return (dataclasses.replace(happened(clock, of, Hold.POLICY.value, f"held: {text}"), data=data),)


def refusal(found: Screening) -> PolicyError:
    """Return the error that a refused submission is answered with."""
    return PolicyError(f"{found.sentence[0].upper()}{found.sentence[1:]}.")


def marked(policy: Policy, idea: Idea, found: Screening) -> Idea:
    """Return an idea that carries its verdict; the same where the policy does not speak of ideas."""
    if not policy.asks(Subject.IDEA):
        return idea
    return idea.screened(found)


def added(change: Change, entries: tuple[AuditEntry, ...], events: tuple[Event, ...] = ()) -> Change:
    """Return a change with a verdict's entries and events before its own."""
    return dataclasses.replace(change, audit=(*entries, *change.audit), events=(*events, *change.events))
