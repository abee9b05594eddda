"""`fumehood verify --rerun`: the code of signed records once more, in fresh containers, and its numbers compared."""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from fumehood.artifacts.signing import SECRET_FILE, derive_key, installation_secret
from fumehood.cli import checks, recorded
from fumehood.cli.apart import apart
from fumehood.cli.children import check_machine
from fumehood.cli.output import Progress
from fumehood.cli.run import follow
from fumehood.domain.direction import Direction, Hold
from fumehood.domain.experiment import Arm, Run
from fumehood.domain.ids import RunId
from fumehood.domain.template import Profile
from fumehood.errors import BadInputError, MachineUnfitError, NotFoundError, PolicyError
from fumehood.ports import Artifacts, Clock
from fumehood.services import facts, records, rerunning, screening, submissions, templates
from fumehood.services.rerunning import Compared
from fumehood.services.verification import Folder, open_folder
from fumehood.settings import Settings
from fumehood.store.clock import SystemClock
from worker import worlds

_RECORD = re.compile(r"((?:run|confirm)_\d+(?:_seed_\d+)?)/record\.json")


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One record to be measured again."""

    name: str
    """Such as `smaller_scale/run_1`."""
    record: Mapping[str, Any]
    siblings: Sequence[Mapping[str, Any]]
    """All records of its experiment."""
    folder: Folder

    @property
    def arm(self) -> Arm:
        """Which data it was measured on."""
        return Arm(self.record["run"].get("arm", Arm.SCREEN))

    @property
    def has_known_data(self) -> bool:
        """Whether its data can be drawn again: those of a screen follow from the profile."""
        return self.arm is Arm.SCREEN or bool(self.record.get("drawn_seeds"))


def rerun(
    settings: Settings, folder: Path, *, run: str, template: str, sandbox: str, progress: Progress
) -> list[Compared]:
    """Measure the records of a finished folder again, or those of one run, with what a signature said of each.

    A run is named by its number or its folder, such as `confirm_1`; empty for all of them.

    Whoever calls has verified the folder. Each is measured in a state folder of its own, which is thrown away, as the
    baseline of a direction that has that code. Raises `MachineUnfitError` where the data cannot be drawn again.
    """
    whole, only = recorded.of_direction(folder)
    asked = recorded.direction_of(whole)
    run = f"run_{run}" if run.isdigit() else run
    chosen = [one for one in _chosen(open_folder(whole), only) if run in {"", one.name.partition("/")[2]}]
    if not chosen:
        raise BadInputError(f"{folder} holds no record of {run or 'a run'}.")
    if old := [one.name for one in chosen if not one.has_known_data]:
        why = f"The records of {', '.join(old)} do not say which seeds their data was drawn for"
        if len(old) == len(chosen):
            raise BadInputError(f"{why}, so they cannot be measured again.")
        progress.say(f"{why}, so they are not measured again.")
        chosen = [one for one in chosen if one.has_known_data]
    _check_secret(settings, chosen)
    checks.gpus(settings, template or asked.template, asked.profile, sandbox)
    checks.room(settings)
    return [_measured_again(settings, asked, one, template, sandbox, progress) for one in chosen]


def _chosen(whole: Folder, only: str) -> Iterator[Measured]:
    """Yield the records, each once: experiments share a baseline, and a direction's confirmations theirs."""
    names = sorted({path.split("/")[1] for path in whole.paths if path.startswith("experiments/")})
    seen: set[str] = set()
    for name in [only] if only else names:
        inside = whole.below(f"experiments/{name}/")
        found = {match[1]: inside.read(path) for path in inside.paths if (match := _RECORD.fullmatch(path))}
        told = {place: facts.predicate(data) for place, data in found.items()}
        for place, data in found.items():
            sha = hashlib.sha256(data).hexdigest()
            if sha not in seen:
                yield Measured(name=f"{name}/{place}", record=told[place], siblings=tuple(told.values()), folder=inside)
            seen.add(sha)


def _check_secret(settings: Settings, chosen: Sequence[Measured]) -> None:
    """Refuse records whose data only another installation can draw."""
    ours = ""
    if (settings.state_dir / SECRET_FILE).is_file():
        key = derive_key(installation_secret(settings.state_dir), records.FINGERPRINT)
        ours = hashlib.sha256(key).hexdigest()
    if foreign := [one.name for one in chosen if one.record["data"] and one.record["secret"] != ours]:
        raise MachineUnfitError(
            f"The data of {', '.join(foreign)} was drawn from a secret that is not this installation's, so none of "
            "their numbers can be compared here.",
            remedy="Type the same where the folder was made, with that FUMEHOOD_STATE_DIR.",
        )


def _measured_again(
    settings: Settings, asked: Direction, one: Measured, template: str, sandbox: str, progress: Progress
) -> Compared:
    policy = dataclasses.replace(screening.load(settings.policy), judge=None)
    # Its rules screen here; its judge would be asked, and paid, for what was judged before.
    with apart(settings, "reruns", policy="") as own:
        worlds.prepare_state(own)
        store, artifacts, clock = worlds.store_of(own), worlds.artifacts_of(own), SystemClock()
        try:
            direction = recorded.as_submitted(asked, template or asked.template, artifacts)
            words, profile = templates.read(direction, artifacts)
            if words.llm:
                raise BadInputError("The runs of this template ask a model: `fumehood replay` repeats them.")
            code = _code(settings, one, artifacts)
            direction = recorded.with_asked(direction, one.record["sources"], artifacts)
            # A direction without ideas ends with its baseline.
            direction = dataclasses.replace(direction, ideas=0, parent=None, parent_files=code)
            progress.start(f"measuring {one.name} again")
            told = check_machine(own, sandbox, progress.say)
            drawn = ",".join(map(str, one.record.get("drawn_seeds") or ()))
            data = {submissions.ARM: one.arm.value, submissions.SEEDS: drawn} if drawn else None
            if submissions.submit_again(store, clock, direction, policy, data).hold is Hold.POLICY:
                raise PolicyError("The policy wants a person to look at this direction first; nothing was run again.")
            with store.begin() as tx:
                tx.runs.save(_run(clock, direction, one, profile))
            follow(own, store, direction, str(told["adapter"]), progress)
            with store.begin(write=False) as tx:
                ended = tx.directions.get(direction.id)
                runs = tx.runs.find(direction_id=direction.id, index=0)
            if not runs or not runs[0].record:
                why = ended.error or f"the direction {ended.state}"
                return Compared(one.name, different=[f"{one.name}: it came to no numbers again: {why}"])
            again = facts.predicate(artifacts.get(runs[0].record))
            return rerunning.compare(one.name, one.record, again, one.siblings)
        finally:
            progress.stop()
            store.close()


def _run(clock: Clock, direction: Direction, one: Measured, profile: Profile) -> Run:
    """Return what is to be measured, on the record's own seeds: a screened run has fewer than its baseline."""
    seeds, arguments = one.record["seeds"], one.record.get("arguments") or ()
    return Run(
        id=RunId(clock.new_id("run")),
        direction_id=direction.id,
        experiment_id=None,
        index=0,
        arm=one.arm,
        # Its limits follow from that.
        alone=int(one.record["run"].get("alone", 0)),
        arguments=tuple(arguments)[len(profile.arguments) :],
        title=one.name,
        description="A record's code, measured again.",
        files=templates.start_of(direction),
        seeds=tuple(seeds) if isinstance(seeds, list) else (),
    )


def _code(settings: Settings, one: Measured, artifacts: Artifacts) -> dict[str, str]:
    """Keep the code that a record names, from the template, the folder or this installation; path to SHA-256."""
    lying = {path: one.folder.read(path) for path in one.folder.paths if path.endswith(".py")}
    by_sha = {hashlib.sha256(data).hexdigest(): data for data in lying.values()}
    code: dict[str, str] = dict(one.record["code"])
    for path, sha in code.items():
        if sha in by_sha:
            artifacts.put(by_sha[sha])
        elif not _is_kept(artifacts, sha):
            try:
                artifacts.put(worlds.artifacts_of(settings).get(sha))
            except NotFoundError as error:
                raise BadInputError(f"The folder does not hold {path} as {one.name} measured it.") from error
    return code


def _is_kept(artifacts: Artifacts, sha: str) -> bool:
    try:
        artifacts.path(sha)
    except NotFoundError:
        return False
    return True


def table_of(found: Sequence[Compared]) -> Table:
    """Return every number that was measured again, beside the recorded one."""
    table = Table(title="measured again")
    for name in ("run", "data set", "metric", "seed", "recorded", "again", "apart", "noise allows", ""):
        table.add_column(name, overflow="fold")
    for one in found:
        for row in one.rows:
            numbers = [f"{value:.6g}" for value in (row.recorded, row.again)]
            apart_by = f"{abs(row.again - row.recorded):.2g}"
            shown = [one.name, row.dataset, row.metric, row.seed, *numbers, apart_by, f"{row.allowed:.2g}"]
            verdict = "same" if row.is_same else "within the noise" if row.holds else "BEYOND the noise"
            table.add_row(*shown, verdict if row.decides else "self-reported")
    return table


def lines_of(found: Sequence[Compared]) -> Iterator[str]:
    """Return what it came to as lines for a person."""
    for one in found:
        yield from (f"noise    {one.name}: {place} {_sd(sd)}" for place, sd in one.noise.items())
        yield from (f"elsewhere {told}" for told in one.elsewhere)
        yield from (f"DIFFERS  {told}" for told in one.different)
    holding = sum(one.holds for one in found)
    yield f"{holding} of {len(found)} runs came to the same"


def _sd(sd: float | None) -> str:
    return "has one seed, so nothing but the same number agrees" if sd is None else f"sd {sd:.3g} from seed to seed"


def as_json(found: Sequence[Compared]) -> list[dict[str, Any]]:
    """Return the same for a program."""
    return [
        {
            "run": one.name,
            "holds": one.holds,
            "different": one.different,
            "elsewhere": one.elsewhere,
            "noise": one.noise,
            "numbers": [dataclasses.asdict(row) | {"same": row.is_same, "holds": row.holds} for row in one.rows],
        }
        for one in found
    ]
