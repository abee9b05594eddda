"""A finished folder: every file of a direction, made from the database and the artifacts, its manifest last."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from fumehood.domain.direction import Direction
from fumehood.domain.experiment import Arm, Experiment, Run, settled
from fumehood.domain.idea import Idea
from fumehood.domain.ids import DirectionId, ExperimentId
from fumehood.ports import Artifacts, Clock, Signer, Store, Transaction
from fumehood.services import call_texts, catalogue, confirmation_report, log, log_file, results, templates

MANIFEST = "manifest.json"
PUBLIC_KEY = "signing_key.pem"
"""Lies in a folder so that it can be checked by fingerprint elsewhere; it is trusted nowhere for lying there."""
CATALOGUE = "catalogue.json"
"""What the direction's ideas may ask for, where there is anything."""
MANIFEST_TYPE = "application/vnd.fumehood.manifest+json"
MAX_LINED = 2 * 1024 * 1024
"""Larger files are named as a whole when they differ, not by the line."""


def runs_of(tx: Transaction, experiment: Experiment) -> list[Run]:
    """Return the baseline of an experiment, where it has one, its runs, and what its confirmation measured."""
    baseline = [tx.runs.get(experiment.baseline_id)] if experiment.baseline_id else []
    screened = tx.runs.find(experiment_id=experiment.id, arm=Arm.SCREEN)
    looks = tx.runs.find(experiment_id=experiment.id, arm=Arm.CONFIRM)
    pool = tx.runs.find(direction_id=experiment.direction_id, arm=Arm.CONFIRM, index=0)
    has_own = any(run.index == 0 for run in looks)
    shared = [run for run in pool if run.experiment_id is None and not has_own]
    pool = settled(shared) if confirmation_report.PRODUCT in experiment.products else ()
    return [*baseline, *sorted(screened, key=_index), *sorted(pool, key=_index), *sorted(looks, key=_index)]


def _index(run: Run) -> tuple[int, int]:
    return run.index, run.alone


def stored_files(experiment: Experiment, runs: Sequence[Run]) -> dict[str, str]:
    """Return those files of an experiment's folder that are stored as they are, path to SHA-256."""
    files = dict(experiment.files)
    for run in runs:
        files |= _run_files(run)
    for run in runs:
        if run.experiment_id == experiment.id and run.arm is Arm.SCREEN and "experiment.py" in run.files:
            files[f"{run.folder}.py"] = run.files["experiment.py"]
    return {**files, **experiment.products}


def experiment_files(tx: Transaction, artifacts: Artifacts, experiment: Experiment) -> dict[str, str]:
    """Return the files of one experiment's folder, path to SHA-256; all but its manifest."""
    idea = experiment.planned(tx.ideas.get(experiment.idea_id))
    runs = runs_of(tx, experiment)
    files = stored_files(experiment, runs)
    files["idea.json"] = artifacts.put(_json(_idea(idea)))
    files["notes.txt"] = artifacts.put(experiment.notes.encode())
    files["runs.json"] = artifacts.put(_json([_run(run) for run in runs]))
    files["llm_calls.jsonl"] = artifacts.put(_calls(tx, artifacts, experiment.direction_id, experiment.id))
    return files


def _run_files(run: Run) -> dict[str, str]:
    files = {f"{run.folder}/{path}": sha for path, sha in run.outputs.items()}
    named = {
        "final_info.json": run.final_info,
        "self_reported.json": run.self_reported,
        "log.txt": run.log,
        "record.json": run.record,
    }
    return files | {f"{run.folder}/{path}": sha for path, sha in named.items() if sha}


def _run(run: Run) -> dict[str, object]:
    return {
        "index": run.index,
        "arm": run.arm,
        "folder": run.folder,
        "title": run.title,
        "description": run.description,
        "result": run.result,
        "attempts": [dataclasses.asdict(one) for one in run.attempts],
        "seeds": list(run.seeds),
    }


def _idea(idea: Idea) -> dict[str, object]:
    told = dataclasses.asdict(idea)
    del told["extra"]
    return told


def _calls(
    tx: Transaction, artifacts: Artifacts, direction_id: DirectionId, experiment_id: ExperimentId | None = None
) -> bytes:
    """Return the calls for one experiment, or without one those for the direction itself, a line each."""
    lines = []
    for call in tx.calls.find(direction_id=direction_id):
        if call.experiment_id != experiment_id:
            continue
        told = dataclasses.asdict(call)
        told["claims"] = json.loads(call.claims)
        said = call_texts.said_in(tx, artifacts, call)
        told["request"], told["reply"] = _body(said.request), _body(said.reply)
        lines.append(json.dumps(told, default=str))
    return ("\n".join(lines) + "\n").encode() if lines else b""


def _body(data: bytes) -> object:
    if not data:
        return None
    try:
        return json.loads(data)
    except ValueError:
        return data.decode(errors="replace")


def direction_files(
    store: Store, artifacts: Artifacts, clock: Clock, direction_id: DirectionId, signer: Signer
) -> dict[str, str]:
    """Return every file of a direction's folder but the manifest, path to SHA-256."""
    head = log.sign(store, clock, signer)
    with store.begin(write=False) as tx:
        direction = tx.directions.get(direction_id)
        ideas = tx.ideas.find(direction_id=direction_id)
        files = {
            "ideas.json": artifacts.put(_json([_idea(idea) for idea in ideas])),
            "ledger.json": artifacts.put(_json([dataclasses.asdict(one) for one in tx.ledger.entries(direction_id)])),
            "summary.json": artifacts.put(_json(results.summary(tx, artifacts, direction))),
            "events.jsonl": artifacts.put(_events(tx, direction_id)),
            "llm_calls.jsonl": artifacts.put(_calls(tx, artifacts, direction_id)),
            "direction.json": artifacts.put(describe(direction)),
            PUBLIC_KEY: artifacts.put(signer.public_pem()),
        }
        template = templates.load(direction.template_files, artifacts, direction.template)
        if entries := catalogue.of_record(tx, direction, template):
            files[CATALOGUE] = artifacts.put(_json([dataclasses.asdict(one) for one in entries]))
        for experiment in tx.experiments.find(direction_id=direction_id):
            own = experiment_files(tx, artifacts, experiment) | {PUBLIC_KEY: files[PUBLIC_KEY]}
            own[log_file.FILE] = artifacts.put(
                _json(log_file.build(tx, artifacts, experiment, runs_of(tx, experiment), head))
            )
            own[MANIFEST] = artifacts.put(manifest(own, artifacts, signer))
            files |= {f"experiments/{experiment.name}/{path}": sha for path, sha in own.items()}
    return files


def _events(tx: Transaction, direction_id: DirectionId) -> bytes:
    lines = []
    seen = 0
    while events := tx.events.since(direction_id, seen):
        lines += [json.dumps(dataclasses.asdict(event), default=str) for event in events]
        seen = events[-1].seq
    return ("\n".join(lines) + "\n").encode()


def describe(direction: Direction) -> bytes:
    """Return `direction.json`, which is written first and names the direction."""
    return _json(dataclasses.asdict(direction))


def manifest(files: Mapping[str, str], artifacts: Artifacts, signer: Signer) -> bytes:
    """Return a signed manifest: the SHA-256 of every file, and a checksum of every line of the textual ones."""
    entries = []
    for path, sha in sorted(files.items()):
        data = artifacts.get(sha)
        entry: dict[str, object] = {"path": path, "sha256": sha, "bytes": len(data)}
        lines = line_sums(data)
        if lines:
            entry["lines"] = lines
        entries.append(entry)
    return signer.sign(json.dumps({"files": entries}).encode(), MANIFEST_TYPE)


def line_sums(data: bytes) -> str:
    """Return eight hex digits for each line of a text, so that a change can be named by its line; "" for others."""
    if len(data) > MAX_LINED or b"\0" in data[:8192]:
        return ""
    return "".join(f"{zlib.crc32(line):08x}" for line in data.split(b"\n"))


def write(files: Mapping[str, str], artifacts: Artifacts, signer: Signer, out: Path) -> None:
    """Write a direction's folder; the manifest comes last, so a folder without one is unfinished."""
    signed = manifest(files, artifacts, signer)
    (out / MANIFEST).unlink(missing_ok=True)
    for stray in out.rglob(".*.partial"):
        # What a write that was killed left; a directory of that name is somebody else's.
        if stray.is_file() and stray.relative_to(out).as_posix() not in files:
            stray.unlink()
    for path, sha in files.items():
        target = out / path
        target.parent.mkdir(parents=True, exist_ok=True)
        if not (target.is_file() and hashlib.sha256(target.read_bytes()).hexdigest() == sha):
            _replace(target, artifacts.get(sha))
    _replace(out / MANIFEST, signed)


def _replace(target: Path, data: bytes) -> None:
    partial = target.with_name(f".{target.name}.partial")
    try:
        partial.write_bytes(data)
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def _json(value: object) -> bytes:
    return json.dumps(value, indent=2, default=str).encode() + b"\n"
