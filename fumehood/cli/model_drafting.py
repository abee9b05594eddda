"""`fumehood template new --model`: a model drafts, the sandbox measures and tries the draft, and a person approves.

What the model wrote is read as text here and run in the sandbox only, `prepare.py` and `evaluate.py` too. What is wrong
goes back to it, up to four attempts; whatever came of them lies in the draft's folder, from where `--resume` goes on.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from fumehood.cli import checks, draft_notes, draft_trials, drafting
from fumehood.cli.children import Children, gateway
from fumehood.cli.draft_notes import Notes
from fumehood.cli.draft_trials import Draft
from fumehood.cli.drafting import Answers
from fumehood.cli.output import Progress
from fumehood.domain.direction import Direction
from fumehood.domain.policy import PolicyVerdict
from fumehood.domain.template import FROZEN_FILES
from fumehood.domain.tenant import LOCAL_ACTOR
from fumehood.errors import BadInputError, ModelUnavailableError, OverBudgetError, PolicyError, WorkFailedError
from fumehood.latex import skeleton
from fumehood.services import draft_answers, draft_data, screening, submissions, templates
from fumehood.services import drafting as parts
from fumehood.services.calls import claims_for, question
from fumehood.services.draft_answers import ATTEMPTS, DraftAnswer, Given
from fumehood.services.world import WriteWorld
from fumehood.settings import Settings
from worker import worlds

SYSTEM = "You draft how ideas are measured, so that nobody can be fooled by what comes out, least of all yourself."
MOST_TOKENS = 16_000
NOT_WITH_A_MODEL = ("pattern", "arguments")
MOST_FAILURE = 5000
SAME = "It is the same draft as before, byte for byte, so it was not measured again."


def new(
    settings: Settings,
    answers: Answers,
    out: Path,
    *,
    model: str | None,
    budget_usd: float | None,
    resume: bool,
    approve: bool,
    profile: str,
    sandbox: str,
    progress: Progress,
    describe: Callable[[dict[str, Any]], list[str]],
) -> dict[str, Any]:
    """Have a model draft a template, measure and try it, and freeze it when a person approves; say what came of it.

    With `resume` what lies in the folder is measured as it is, mended by hand or not, and the model goes on from there
    unless `model` is the offline one. With `approve` a draft is frozen unasked where all checks hold, but for those of
    which an earlier command has told a person that they do not.
    """
    if profile not in parts.SEEDS:
        raise BadInputError(f"A draft has no profile {profile!r}; it has {', '.join(parts.SEEDS)}.")
    submissions.check_budget(budget_usd, None, None)
    notes = _found(settings, out, model) if resume else _begun(answers, out, model)
    if budget_usd is not None:
        notes.budget_usd = budget_usd
    asks = not checks.is_offline(settings, model or notes.model)
    if asks:
        checks.provided(settings, notes.model)
    given = _given(Answers(**_answers(notes.asked)), progress.say) if asks else Given(words="", files={}, wishes={})
    worlds.prepare_state(settings)
    with draft_trials.under_way(settings, out, given, notes, sandbox) as direction:
        notes.directions.append(direction.id)
        if not resume:
            drafting.place({templates.DRAFT: notes.sealed(settings).text()}, out)
        draft = Draft(
            settings=settings,
            out=out,
            given=given,
            direction=direction,
            profile=profile,
            sandbox=sandbox,
            progress=progress,
            notes=notes,
        )
        draft.keep()
        try:
            _carry_out(draft, asks=asks)
        finally:
            progress.stop()
            progress.say(f"{notes.model} cost {draft_trials.spent(settings, notes):.4f} USD for this draft")
    told = _told(draft)
    failed = {one.name: one.sentence for one in draft.checks if not one.held}
    at_once = approve and set(failed) <= set(notes.told)
    told["approved"] = not draft.is_blocked and (at_once or drafting.asked_to_approve(describe(told), progress))
    if told["approved"]:
        by = {"drafted_by": told["model"], "frozen_pair_by": _pair_by(draft)}
        drafting.freeze(out, draft.files, **by, did_not_hold=list(failed.values()))
    else:
        draft.keep(told=sorted(failed))
    return told


def _begun(answers: Answers, out: Path, model: str | None) -> Notes:
    drafting.check_place(out)
    for name in NOT_WITH_A_MODEL:
        if getattr(answers, name):
            option = "--argument" if name == "arguments" else f"--{name}"
            raise BadInputError(f"{option} is for a draft without --model: a model's draft has an evaluator.")
    if answers.better and answers.better not in {"lower", "higher"}:
        raise BadInputError(f"--better is lower or higher, not {answers.better!r}.")
    for words in filter(None, (answers.title, answers.task, answers.target, answers.metric)):
        if len(words) > drafting.MOST_WORDS or not words.isprintable():
            raise BadInputError("Titles, tasks, targets and metrics are one line of printable text.")
    asked = {name: value for name, value in dataclasses.asdict(answers).items() if value}
    if answers.data:
        asked["data"] = str(answers.data.absolute())
    with contextlib.suppress(OSError):  # a topic may be longer than a path
        asked["source"] = str(Path(answers.source).resolve(strict=True))
    return Notes(source=answers.source, model=model or "", asked=asked)


def _found(settings: Settings, out: Path, model: str | None) -> Notes:
    """Return what the folder says of its draft, to go on from; a model only with what this installation drafted."""
    worlds.prepare_state(settings)
    notes = draft_notes.read(out).believed(settings)
    asks = model is None or not checks.is_offline(settings, model)
    if asks and not notes.asked:
        raise BadInputError(
            f"{out / templates.DRAFT} has no seal of this installation, so no model is shown what it names: give"
            " --model offline to measure what lies there, or begin anew with --from."
        )
    return notes.model_copy(update={"model": model}) if model and asks else notes


def _answers(asked: Mapping[str, Any]) -> dict[str, Any]:
    return dict(asked) | ({"data": Path(asked["data"])} if "data" in asked else {})


def _given(answers: Answers, say: Callable[[str], None]) -> Given:
    """Read the person's program and data, and say what of them is not taken."""
    files = drafting.own_files(answers.source, say)
    data = draft_data.read(answers.data) if answers.data else None
    for line in data.left_out if data else ():
        say(line)
    if answers.entry and answers.entry not in files:
        raise BadInputError(f"There is no file {answers.entry!r} to begin from; there is {', '.join(files) or 'none'}.")
    wishes = {"target": answers.target, "metric": answers.metric, "better": answers.better}
    topic = "" if files else answers.source
    return Given(
        words=". ".join(one.rstrip(".") for one in (topic, answers.task or "") if one),
        title=answers.title or "",
        files=files,
        program=answers.entry or drafting.likely_entry(files) or "",
        data=data,
        wishes={name: value for name, value in wishes.items() if value},
    )


def _carry_out(draft: Draft, *, asks: bool) -> None:
    """Draft, measure and try, until nothing is wrong or the attempts are used up; raises where nothing was measured."""
    wrong = draft.notes.wrong
    if draft.notes.sort:
        # Somebody may have mended it; of what merely does not hold they were told, and the model too, before.
        wrong = draft_trials.tried(draft)
        draft.keep(wrong=wrong)
        if draft.measured and not draft.is_blocked:
            return
    elif not asks:
        raise BadInputError(f"The model has drafted nothing in {draft.out} yet: go on with --model NAME.")
    found, measured = "", dict[str, str]()  # what came of the draft that was tried last, and that draft
    for attempt in range(1, ATTEMPTS + 1) if asks else ():
        if attempt == 1:
            draft.progress.say(_shown(draft))
        draft.progress.say(f"attempt {attempt}: asking {draft.notes.model} for a draft")
        wrong = _written(draft, attempt, wrong)
        if not wrong and draft.notes.wrote == measured:
            wrong = f"{found}\n{SAME}"
        elif not wrong:
            wrong = found = draft_trials.tried(draft)
            measured = draft.notes.wrote
        draft.keep(wrong=wrong)
        if not wrong:
            break
        draft.progress.say(f"attempt {attempt}: {wrong.strip().splitlines()[-1][:300]}")
    if not draft.measured:
        raise WorkFailedError(
            f"No draft came to a baseline: {wrong.strip()[-1500:].rstrip('.')}. What there is stays: mend it, and"
            f" `fumehood template new --resume --out {draft.out}`."
        )


def _shown(draft: Draft) -> str:
    """Return what leaves this machine, in a sentence."""
    told = [f"the text of {len(draft.given.files)} files"] if draft.given.files else []
    if draft.given.data:
        told.append(f"columns, shapes and a few values of {len(draft.given.data.files)} files of data")
    return f"{draft.notes.model} is shown {' and '.join([*told, 'what you said'])}"


def _written(draft: Draft, attempt: int, wrong: str) -> str:
    """Ask the model and put what it drafted into the folder; returns what is wrong with it as a text, if anything."""
    try:
        answer = _ask(draft, attempt, wrong)
    except ModelUnavailableError as error:
        if error.retryable or error.mendable:
            raise ModelUnavailableError(
                f"{str(error).rstrip('.')}. Nothing is lost: give --resume to go on."
            ) from error
        return str(error)
    except OverBudgetError as error:
        all_of_it = draft.notes.budget_usd
        for_all = "" if all_of_it is None else f" ({all_of_it:g} USD are for all commands of this draft)"
        raise OverBudgetError(
            f"{str(error).rstrip('.')}{for_all}. Raise --budget-usd and give --resume to go on."
        ) from error
    if answer.cannot.strip():
        raise WorkFailedError(f"{draft.notes.model} says that no honest template can be drafted: {answer.cannot[:500]}")
    draft.answered = {one.path: one.content.encode(errors="replace") for one in answer.files}
    try:
        sort, files = draft_answers.files_of(answer, draft.given, skeleton.OWN.read_bytes())
    except BadInputError as error:
        return str(error)
    lab = worlds.lab_packages(draft.settings) or worlds.IMAGE_PACKAGES
    found = list(draft_answers.problems(files, lab))
    if not found:
        _put(draft.out, files, draft.notes.wrote)
        assumed = [" ".join(one.split())[:500] for one in answer.assumed]
        wrote = draft_notes.hashes(files)
        draft.keep(sort=sort, assumed=assumed, wrote=wrote, wrote_by=draft.notes.model, wrong="")
        draft.progress.say(f"attempt {attempt}: {len(files)} files, sort `{sort}`")
    return "\n".join(found)


def _ask(draft: Draft, attempt: int, wrong: str) -> DraftAnswer:
    there = {path: (draft.out / path).read_bytes() for path in draft_answers.WRITES if (draft.out / path).is_file()}
    there |= draft.answered
    with Children(draft.settings, (gateway(),)) as children:
        world = worlds.write_world(draft.settings, children.gateway_url)
        _screen(world, draft.direction)
        fields = draft_answers.fields_of(draft.given, there, wrong[-MOST_FAILURE:])
        prompt = world.prompts.render("draft", **fields)
        claims = claims_for(world, draft.direction, "draft", attempt=attempt, prompt=prompt)
        call = question(world, claims, prompt, system=SYSTEM, max_tokens=MOST_TOKENS, temperature=0.3)
        return world.model.answer(call, DraftAnswer)


def _screen(world: WriteWorld, direction: Direction) -> None:
    """Have the policy's judge look at what is asked for, where there is one."""
    if world.policy.judge is None:
        return
    told = screening.of_direction(direction)
    found = screening.screen(world, direction, told)
    with world.store.begin() as tx:
        screening.note(tx, world.clock, world.policy, direction, told, found, LOCAL_ACTOR)
    if found.verdict is not PolicyVerdict.ALLOWED:
        raise PolicyError(f"{found.sentence[0].upper()}{found.sentence[1:]}.")


def _put(out: Path, files: Mapping[str, bytes], before: Iterable[str]) -> None:
    """Write a draft's files over those that the model wrote before; what somebody else put there stays."""
    for path in filter(draft_data.PATH.fullmatch, set(before) - set(files)):
        (out / path).unlink(missing_ok=True)
    for path, content in files.items():
        place = out / path
        place.parent.mkdir(parents=True, exist_ok=True)
        draft_notes.replace(place, content)


def _told(draft: Draft) -> dict[str, Any]:
    notes = draft.notes
    return {
        "template": str(draft.out),
        "sort": str(notes.sort),
        "cannot": drafting.cannot(notes.sort, draft.files),
        "model": notes.wrote_by or notes.model,
        "assumed": notes.assumed,
        "cost_usd": draft_trials.spent(draft.settings, notes),
        "frozen": parts.frozen_of(draft.files),
        "checks": [dataclasses.asdict(one) for one in draft.checks],
        "baseline": draft.measured,
    }


def _pair_by(draft: Draft) -> str:
    """Say who wrote what is measured by, from its bytes and not from anybody's word."""
    if parts.has_our_pair(draft.files):
        return "Fumehood"
    pair = {path: draft.files.get(path) for path in FROZEN_FILES}
    wrote = {path: draft.notes.wrote.get(path) for path in FROZEN_FILES}
    return draft.notes.wrote_by if pair == wrote and draft.notes.wrote_by else "somebody, by hand"
