"""Does everything in a finished folder hold: signatures, hashes, and every number of the paper.

The same checks run over a folder on disk (`fumehood verify`) and over an experiment before it is exported.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fumehood.domain.experiment import Arm, Experiment, ExperimentState, folder_of
from fumehood.domain.step import Step
from fumehood.domain.template import Metric
from fumehood.errors import FumehoodError, NotFoundError, TamperedError
from fumehood.services import (
    confirmation_check,
    confirmation_report,
    directions,
    drawing_check,
    drawings,
    export,
    final_info,
    held_out,
    log_checks,
    neighbours,
    numbers,
    records,
    registering,
    replication,
)
from fumehood.services.change import Change, happened
from fumehood.services.world import WriteWorld

Open = Callable[[bytes, str], bytes]
"""Takes an envelope and its payload's type, returns the payload; `TamperedError` when the signature does not hold."""
MAX_PROBLEMS = 50
_TOLD = ("claims.json", "latex/main.tex", "paper.pdf", "verification.json")
"""What an experiment comes to have only after its confirmation has ended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Folder:
    """Files by their path, wherever they lie."""

    paths: tuple[str, ...]
    read: Callable[[str], bytes]

    def below(self, prefix: str) -> Folder:
        """Return the folder below a prefix that ends in `/`."""
        inside = tuple(path.removeprefix(prefix) for path in self.paths if path.startswith(prefix))
        return Folder(paths=inside, read=lambda path: self.read(prefix + path))


@dataclass(slots=True)
class Report:
    """What was checked and what does not hold."""

    checks: dict[str, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def count(self, what: str, number: int = 1) -> None:
        """Count checks that were made, whether they held or not."""
        self.checks[what] = self.checks.get(what, 0) + number

    def add(self, problem: str) -> None:
        """Keep a problem, once; a file's name may hold what cannot be printed."""
        problem = problem.encode(errors="backslashreplace").decode()
        if problem not in self.problems and len(self.problems) < MAX_PROBLEMS:
            self.problems.append(problem)

    @property
    def holds(self) -> bool:
        """Whether nothing was found."""
        return not self.problems


def open_folder(folder: Path) -> Folder:
    """Return a folder on disk; links and special files count as files that cannot be read."""
    paths = tuple(
        sorted(
            path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_symlink() or not path.is_dir()
        )
    )

    def read(path: str) -> bytes:
        file = folder / path
        if file.is_symlink() or not file.is_file():
            raise NotFoundError(f"{path} is not a regular file")
        return file.read_bytes()

    return Folder(paths=paths, read=read)


def verify_folder(folder: Folder, opened: Open) -> Report:
    """Check a direction's or an experiment's folder against its manifest, its records and its claims."""
    report = Report()
    _manifest(folder, opened, report)
    names = sorted(
        {path.split("/")[1] for path in folder.paths if path.startswith("experiments/") and path.count("/") > 1}
    )
    if "idea.json" in folder.paths:
        experiment(folder, opened, report, "")
        _log(folder, opened, report, "")
    for name in names:
        inside = folder.below(f"experiments/{name}/")
        _manifest(inside, opened, report, f"experiments/{name}/")
        experiment(inside, opened, report, f"experiments/{name}/")
        _log(inside, opened, report, f"experiments/{name}/")
    if "direction.json" in folder.paths:
        _levels(folder, report, names)
    return report


def _levels(folder: Folder, report: Report, names: Iterable[str]) -> None:
    """Check the confirmations of a direction together: one rule, and a level for each that the others allow."""
    places = {name: f"experiments/{name}/{confirmation_report.PRODUCT}" for name in names}
    try:
        told = {name: folder.read(place) for name, place in places.items() if place in folder.paths}
        rule = json.loads(folder.read("direction.json")).get("rule")
        wrong = confirmation_check.of_direction(rule, told, _labels(folder, report))
    except (FumehoodError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        report.add(f"the confirmations of the direction cannot be checked together ({type(error).__name__}: {error})")
        return
    for name, problems in wrong.items():
        for problem in problems:
            report.add(f"{places.get(name, name)}: {problem}")


def _labels(folder: Folder, report: Report) -> dict[str, tuple[str, str]]:
    if "summary.json" not in folder.paths:
        return {}
    try:
        lines = json.loads(folder.read("summary.json"))["experiments"]
        return {line["name"]: (line["label"], line["outcome"]) for line in lines}
    except (FumehoodError, ValueError, KeyError, TypeError, RecursionError):
        report.add("summary.json does not tell the experiments' labels and outcomes")
        return {}


def _log(folder: Folder, opened: Open, report: Report, where: str) -> None:
    checked = log_checks.check(folder.paths, folder.read, lambda path: _sha(folder, path), opened)
    report.count("log entries", checked.entries)
    for problem in checked.problems:
        report.add(f"{where}{problem}")


def _manifest(folder: Folder, opened: Open, report: Report, where: str = "") -> None:
    if export.MANIFEST not in folder.paths:
        report.add(f"{where}{export.MANIFEST} is missing: the folder was never finished")
        return
    try:
        entries = json.loads(opened(folder.read(export.MANIFEST), export.MANIFEST_TYPE))["files"]
    except (FumehoodError, ValueError, KeyError) as error:
        report.add(f"{where}{export.MANIFEST}: {error}")
        return
    report.count("signatures")
    listed = {entry["path"]: entry for entry in entries}
    for path in sorted(set(folder.paths) - set(listed) - {export.MANIFEST}):
        report.add(f"{where}{path} is not in the manifest")
    for path, entry in listed.items():
        report.count("files")
        if path not in folder.paths:
            report.add(f"{where}{path} is missing")
            continue
        try:
            data = folder.read(path)
        except NotFoundError as error:
            report.add(f"{where}{error}")
            continue
        if hashlib.sha256(data).hexdigest() != entry["sha256"]:
            report.add(f"{where}{path}{_line(data, entry.get('lines', ''))} is not what was signed")


def _line(data: bytes, expected: str) -> str:
    """Return where a text first differs, such as ` line 12`; nothing when either side has no lines."""
    found = export.line_sums(data)
    if not expected or not found:
        return ""
    for number in range(max(len(found), len(expected)) // 8):
        if found[number * 8 : number * 8 + 8] != expected[number * 8 : number * 8 + 8]:
            return f" line {number + 1}"
    return ""


def experiment(folder: Folder, opened: Open, report: Report, where: str) -> None:
    """Check an experiment's records, results and claims."""
    found: dict[str, dict[str, Any]] = {}
    outputs: dict[str, dict[str, str]] = {}
    for path in folder.paths:
        run, _, name = path.partition("/")
        if name == "record.json" and run.startswith(("run_", "confirm_")):
            statement = _record(folder, opened, report, where, run)
            if statement is not None:
                found[run] = statement["predicate"]
                outputs[run] = records.outputs_of(statement)
    _registrations(folder, report, where, found)
    _placements(report, where, found)
    if confirmation_report.PRODUCT in folder.paths:
        _confirmation(folder, report, where, found, outputs)
    if drawings.PRODUCT in folder.paths:
        _drawings(folder, report, where)
    if "claims.json" in folder.paths:
        _claims(folder, report, where, found)


def _registrations(folder: Folder, report: Report, where: str, found: Mapping[str, dict[str, Any]]) -> None:
    """Check that each run was measured under a registration that is shown, as it was then."""
    known = {_sha(folder, path) for path in _versions(folder)}
    for run, one in found.items():
        if one.get("registration"):
            report.count("registrations")
            if one["registration"] not in known:
                report.add(f"{where}{run} was measured under a registration that is not here")


def _placements(report: Report, where: str, found: Mapping[str, dict[str, Any]]) -> None:
    if any("placement" in one for one in found.values()):
        report.count("placements", sum(len(one.get("placement") or ()) for one in found.values()))
    try:
        wrong = list(neighbours.problems(found))
    except (KeyError, TypeError, AttributeError) as error:
        wrong = [f"who ran beside whom cannot be checked ({type(error).__name__}: {error})"]
    for problem in wrong:
        report.add(f"{where}{problem}")


def _confirmation(
    folder: Folder,
    report: Report,
    where: str,
    found: dict[str, dict[str, Any]],
    outputs: Mapping[str, Mapping[str, str]],
) -> None:
    place = f"{where}{confirmation_report.PRODUCT}"
    is_told, is_finished = any(path in folder.paths for path in _TOLD), True
    try:
        data = folder.read(confirmation_report.PRODUCT)
        runs = json.loads(folder.read("runs.json"))
        failed = {one["folder"] for one in runs if one["arm"] == "confirm" and one["result"] == "failed"}
        examples = {run: f"{run}/{held_out.FILE}" for run in found}
        kept = {run: folder.read(path) for run, path in examples.items() if path in folder.paths}
        promised = _promised(folder, found.get(json.loads(data)["plan"]["run"], {}).get("registration"))
        wrong = confirmation_check.problems(data, found, failed, outputs, kept, registration=promised, is_told=is_told)
        is_finished = json.loads(data)["result"] is not None
    except (FumehoodError, ValueError, KeyError, TypeError, RecursionError) as error:
        wrong = [f"it cannot be checked ({type(error).__name__}: {error})"]
    report.count("confirmations" if is_finished else "unfinished confirmations")
    for problem in wrong:
        report.add(f"{place}: {problem}")
    if is_finished and not wrong:
        found[confirmation_report.PRODUCT] = json.loads(data)


def _promised(folder: Folder, sha: str | None) -> dict[str, Any] | None:
    """Return the registration under which a run was measured: any other could have been written since."""
    under = [path for path in _versions(folder) if _sha(folder, path) == sha]
    if sha is None and registering.REGISTRATION in folder.paths:  # records of before it was written down
        under = [registering.REGISTRATION]
    return dict(json.loads(folder.read(under[0]))) if under else None


def _versions(folder: Folder) -> list[str]:
    return [path for path in folder.paths if path == registering.REGISTRATION or registering.is_version(path)]


def _drawings(folder: Folder, report: Report, where: str) -> None:
    report.count("lists of figures")
    try:
        wrong = drawing_check.problems(folder.paths, folder.read, lambda path: _sha(folder, path))
    except (FumehoodError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        wrong = [f"it cannot be checked ({type(error).__name__}: {error})"]
    for problem in wrong:
        report.add(f"{where}{drawings.PRODUCT}: {problem}")


def _record(folder: Folder, opened: Open, report: Report, where: str, run: str) -> dict[str, Any] | None:
    try:
        statement = json.loads(opened(folder.read(f"{run}/record.json"), records.PAYLOAD_TYPE))
    except (FumehoodError, ValueError) as error:
        report.add(f"{where}{run}/record.json: {error}")
        return None
    report.count("signatures")
    for subject in statement["subject"]:
        path = subject["name"]
        report.count("outputs")
        if path not in folder.paths:
            report.add(f"{where}{path} is named in the record of {run} and missing")
        elif _sha(folder, path) != subject["digest"]["sha256"]:
            report.add(f"{where}{path} is not what the record of {run} signed")
    predicate: dict[str, Any] = statement["predicate"]
    named = predicate["run"]
    whose = folder_of(Arm(named.get("arm", Arm.SCREEN)), int(named["index"]), int(named.get("alone", 0)))
    if run != whose:
        report.add(f"{where}{run}/record.json is the record of {whose}")
    _compare_results(folder, report, where, run, predicate)
    return dict(statement)


def _sha(folder: Folder, path: str) -> str:
    try:
        return hashlib.sha256(folder.read(path)).hexdigest()
    except NotFoundError:
        return ""


def _compare_results(folder: Folder, report: Report, where: str, run: str, predicate: Mapping[str, Any]) -> None:
    place = f"{where}{run}/final_info.json"
    try:
        info = final_info.read(folder.read(f"{run}/final_info.json"), "folder")
    except FumehoodError as error:
        report.add(f"{place}: {error}")
        return
    for dataset, metrics in info.datasets.items():
        for name, series in metrics.items():
            report.count("numbers")
            signed = predicate["metrics"].get(name, {}).get("datasets", {}).get(dataset)
            if signed is None or [float(value) for value in signed["seeds"]] != list(series.values):
                report.add(f"{place} at {dataset}/final_info_dict/{name} differs from the signed record")


def _claims(folder: Folder, report: Report, where: str, found: Mapping[str, dict[str, Any]]) -> None:
    try:
        claims = json.loads(folder.read("claims.json"))
        source = folder.read("latex/main.tex").decode() if "latex/main.tex" in folder.paths else ""
    except (NotFoundError, ValueError, RecursionError) as error:
        report.add(f"{where}claims.json cannot be read: {error}")
        return
    if not isinstance(claims, list):
        report.add(f"{where}claims.json cannot be read: it is no list of claims")
        return
    for number, claim in enumerate(claims, start=1):
        report.count("claims")
        try:
            problem = _claim(claim, found, source)
        except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
            problem = f"claim {number} is malformed ({type(error).__name__}: {error})"
        if problem:
            report.add(f"{where}claims.json at {problem}")


def _claim(claim: Mapping[str, Any], found: Mapping[str, dict[str, Any]], source: str) -> str:
    run = claim["source"].split("/")[0]
    place = f"{claim['id']} ({claim['pointer']} of {claim['source']})"
    if run not in found:
        return f"{place}: there is no such signed record"
    try:
        value = numbers.resolve(claim["pointer"], found[run], found.get(numbers.BASELINE_FOLDER), _metrics(found[run]))
    except NotFoundError as error:
        return f"{place}: {error}"
    text = numbers.rounded(value, int(claim["digits"]))
    if text != claim["text"]:
        return f"{place}: the paper prints {claim['text']}, the record says {text}"
    if source and numbers.in_latex(text) not in source:
        return f"{place}: {text} does not stand in latex/main.tex"
    return ""


def _metrics(predicate: Mapping[str, Any]) -> dict[str, Metric]:
    return {
        name: Metric(
            direction=entry.get("direction"),
            resolution=entry.get("resolution", 0.0),
            transform=entry.get("transform", "none"),
        )
        for name, entry in predicate.get("metrics", {}).items()
    }


def verify(world: WriteWorld, step: Step) -> Change:
    """Check an experiment before it is called done; what does not hold fails it, with the places named."""
    with world.store.begin(write=False) as tx:
        subject = tx.experiments.get(str(step.experiment_id))
        files = export.experiment_files(tx, world.artifacts, subject)
    report = Report()

    folder = Folder(paths=tuple(files), read=lambda path: world.artifacts.get(files[path]))
    try:
        experiment(folder, _content, report, "")
    except TamperedError as error:
        report.add(str(error))
    checks = _listed(report)
    data = json.dumps({"holds": report.holds, "checks": checks, "problems": report.problems}, indent=2).encode()
    products = {**subject.products, "verification.json": world.artifacts.put(data)}
    now = world.clock.now()
    if report.holds:
        ended = subject.to(ExperimentState.DONE, products=products, ended_at=now)
        text = f"{subject.name}: verified ({', '.join(checks)})"
    else:
        ended = subject.to(ExperimentState.FAILED, products=products, ended_at=now, error=report.problems[0])
        text = f"{subject.name}: does not hold: {report.problems[0]}"
    event = happened(world.clock, ended, "experiment.verified" if report.holds else "experiment.failed", text)
    more = _replicated(world, ended) if report.holds else Change()
    return dataclasses.replace(
        more,
        experiments=(ended, *more.experiments),
        steps=(directions.close_experiment(ended),),
        events=(event, *more.events),
    )


def _replicated(world: WriteWorld, ended: Experiment) -> Change:
    with world.store.begin(write=False) as tx:
        direction = tx.directions.get(ended.direction_id)
    return replication.begun(world, direction, ended) if replication.is_wanted(world, direction, ended) else Change()


def _content(envelope: bytes, kind: str) -> bytes:
    """Return an envelope's payload unchecked: the write side holds no key, `fumehood verify` checks signatures."""
    shape = json.loads(envelope)
    if shape.get("payloadType") != kind:
        raise TamperedError(f"an envelope holds {shape.get('payloadType')!r}, not {kind!r}")
    return base64.b64decode(shape["payload"])


def _listed(report: Report) -> list[str]:
    return [f"{number} {what}" for what, number in sorted(report.checks.items())]


def describe(report: Report) -> Iterable[str]:
    """Return a report as lines for a person: what was checked, or each place that does not hold."""
    return [f"checked {', '.join(_listed(report))}"] if report.holds else list(report.problems)
