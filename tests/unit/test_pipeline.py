"""The whole pipeline in memory, from what is asked to a finished folder; killed at its commits it ends the same."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fumehood.artifacts.signing import key_id_of, open_envelope
from fumehood.domain.direction import DirectionState
from fumehood.domain.execution import Kind, Spec
from fumehood.domain.idea import Novelty
from fumehood.domain.policy import Policy, PolicyVerdict, Rule, Subject
from fumehood.domain.step import Side, StepState
from fumehood.services import steps, verification
from fumehood.store.memory import MemoryTransaction
from sandbox.fake import FakeSandbox
from tests.fakes.laboratory import IDEAS, SCORE, TINY, Laboratory, act, script
from tests.fakes.model import ScriptedCoder
from tests.fakes.sandbox import Did, InstantSandbox
from tests.fakes.store import KilledError, Moment, MortalStore

BROKEN = ({"experiment.py": b"raise RuntimeError\n"}, "RUN: Broken | it breaks")
CLOCKED = ("started_at", "signed_at", "placement", "direction", "experiment", "registration")
"""What differs between two equal measurements: when they were made, and for whom."""


def ideas(call: Any) -> dict[str, Any]:
    """Propose the same idea twice, then another."""
    chosen = IDEAS[(0, 0, 1)[call.claims.index]]
    return {**chosen, "interestingness": SCORE, "feasibility": SCORE, "novelty_score": SCORE}


def parts() -> dict[str, Any]:
    return {"model": script(idea=ideas), "coder": ScriptedCoder({(1, 1): BROKEN})}


def records(lab: Laboratory) -> dict[str, Any]:
    """Return what every record says, but for times and ids."""
    key = lab.signer.public_key_bytes()
    names = {one.id: one.name for one in lab.experiments()}
    found = {}
    for run in lab.runs():
        envelope = lab.artifacts.get(run.record)
        told = json.loads(open_envelope(envelope, {key_id_of(key): key}, "application/vnd.in-toto+json"))
        told["predicate"] = {name: one for name, one in told["predicate"].items() if name not in CLOCKED}
        found[f"{names.get(run.experiment_id, '')}/{run.folder}"] = told  # type: ignore[arg-type]
    return found


def holds(lab: Laboratory, out: Path) -> verification.Report:
    key = lab.signer.public_key_bytes()
    return verification.verify_folder(
        verification.open_folder(out), lambda envelope, kind: open_envelope(envelope, {key_id_of(key): key}, kind)
    )


def survive(lab: Laboratory) -> None:
    """Work to the end through every kill, as processes that are started again would."""
    for _ in range(5000):
        try:
            if not lab.once():
                if lab.direction().is_final and all(step.state == StepState.DONE for step in lab.steps()):
                    return
                lab.clock.advance(steps.LEASE_S[Side.WRITE] + 1)
        except KilledError:
            continue
    raise AssertionError("it does not end")


@pytest.fixture
def done(make_lab: Callable[..., Laboratory]) -> Laboratory:
    lab = make_lab(**parts())
    lab.submit(ideas=3)
    lab.go_on()
    return lab


def test_a_direction_goes_from_ideas_to_verified_papers(done: Laboratory, tmp_path: Path) -> None:
    assert done.direction().state is DirectionState.DONE, done.told()
    assert [one.novelty for one in done.ideas()] == [Novelty.UNKNOWN, Novelty.NEAR_DUPLICATE, Novelty.UNKNOWN]
    assert [(one.name, one.state) for one in done.experiments()] == [("smaller_scale", "done"), ("momentum", "done")]
    assert [run.result for run in done.runs()] == ["measured"] * 5
    report = holds(done, done.export(tmp_path / "out"))
    assert report.problems == []
    assert report.checks["claims"] > 5
    assert all(step.state == "done" for step in done.steps())


def test_the_finished_folder_holds_what_the_contract_says(done: Laboratory, tmp_path: Path) -> None:
    out = done.export(tmp_path / "out")
    top = {
        "direction.json",
        "ideas.json",
        "summary.json",
        "ledger.json",
        "llm_calls.jsonl",
        "events.jsonl",
        "manifest.json",
        "signing_key.pem",
        "experiments",
    }
    assert {path.name for path in out.iterdir()} == top
    inside = out / "experiments/smaller_scale"
    for name in (
        *("idea.json", "registration.json", "notes.txt", "experiment.py", "plot.py", "run_1.py", "scores.png"),
        *("latex/main.tex", "paper.pdf", "claims.json", "review.json", "verification.json", "manifest.json"),
        *(f"run_0/{name}" for name in ("final_info.json", "self_reported.json", "log.txt", "record.json")),
    ):
        assert (inside / name).is_file(), name
    summary = json.loads((out / "summary.json").read_bytes())
    assert (summary["papers"], summary["experiments_passed"], summary["novelty_unknown"]) == (2, 2, 2)
    assert summary["experiments"][0]["attempts"] == 3
    assert "Every section stands once" in summary["experiments"][0]["reviewed"]


def test_written_again_the_folder_is_the_same_and_strays_of_a_killed_write_go(done: Laboratory, tmp_path: Path) -> None:
    out = done.export(tmp_path / "out")
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    (out / "experiments/smaller_scale/.paper.pdf.partial").write_bytes(b"half of it")
    done.export(out)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("moment", Moment)
def test_killed_once_at_every_commit_it_ends_the_same(
    done: Laboratory, make_lab: Callable[..., Laboratory], moment: Moment
) -> None:
    struck: set[str] = set()

    def fate(tx: MemoryTransaction) -> Moment | None:
        fresh = {step.key for step in tx.steps.find(state=StepState.DONE)} - struck
        struck.update(fresh)
        return moment if fresh else None

    store = MortalStore()
    lab = make_lab(store=store, **parts())
    lab.submit(ideas=3)
    store.fate = fate
    survive(lab)
    assert len(struck) > 60
    assert records(lab) == records(done)
    assert [one.state for one in lab.experiments()] == ["done", "done"]


@pytest.mark.parametrize("seed", [3, 4])
def test_killed_at_seeded_commits_it_ends_the_same(
    done: Laboratory, make_lab: Callable[..., Laboratory], seed: int
) -> None:
    rng = random.Random(seed)
    store = MortalStore()
    lab = make_lab(store=store, **parts())
    lab.submit(ideas=3)
    store.fate = lambda _: rng.choice([None, None, None, *Moment])
    survive(lab)
    assert records(lab) == records(done)
    assert lab.direction().state is DirectionState.DONE
    assert all(one.state == "removed" for one in lab.executions())


@pytest.mark.parametrize("moment", [None, *Moment])
def test_a_refused_edit_never_reaches_the_sandbox_however_often_it_is_killed(
    make_lab: Callable[..., Laboratory], tmp_path: Path, moment: Moment | None
) -> None:
    seen: list[str] = []

    def watched(spec: Spec) -> Did:
        seen.extend(Path(item.source).read_text(errors="replace") for item in spec.inputs if item.path.endswith(".py"))
        return act(spec)

    struck: set[str] = set()

    def fate(tx: MemoryTransaction) -> Moment | None:
        fresh = {step.key for step in tx.steps.find(state=StepState.DONE)} - struck
        struck.update(fresh)
        return moment if fresh else None

    stop = Rule(
        name="no-network-code",
        applies_to=frozenset({Subject.DIFF}),
        pattern=r"^import socket\b",
        verdict=PolicyVerdict.REFUSED,
        reason="Nothing here may ask for a network.",
    )
    coder = ScriptedCoder({(1, 1): ({"experiment.py": b"import socket\nSCALE = 7\n"}, "RUN: Out | it reaches out")})
    store = MortalStore()
    lab = make_lab(store=store, coder=coder, sandbox=InstantSandbox(watched), policy=Policy(rules=(stop,)))
    lab.submit()
    store.fate = fate
    survive(lab)
    assert lab.direction().state is DirectionState.DONE, lab.told()
    assert [[one.verdict for one in run.attempts] for run in lab.runs()] == [[], ["refused"], []]
    assert seen
    assert not any("socket" in text for text in seen)
    with store.begin(write=False) as tx:
        entries = [one for one in tx.audit.since() if one.action == "policy.screened"]
    assert [(one.detail["rule"], one.detail["verdict"]) for one in entries] == [("no-network-code", "refused")]
    assert holds(lab, lab.export(tmp_path / "out")).holds


def test_an_edit_that_hides_data_is_told_and_repaired_and_a_flagged_one_stands_in_the_paper(
    make_lab: Callable[..., Laboratory], tmp_path: Path
) -> None:
    code = TINY["experiment.py"].replace("SCALE = 1.0", "SCALE = 1.5")
    hidden = f"{code}ANSWERS = {[number / 7 for number in range(80)]}\n"
    flagged = f"{code}import random\nrandom.seed(3)\n"
    edits = {(1, 1): hidden, (1, 2): flagged}
    coder = ScriptedCoder({at: ({"experiment.py": text.encode()}, "RUN: A | b") for at, text in edits.items()})
    lab = make_lab(coder=coder)
    lab.submit(runs=1)
    lab.go_on()
    assert lab.direction().state is DirectionState.DONE, lab.told()
    assert [[one.verdict for one in run.attempts] for run in lab.runs()] == [[], ["refused"]]
    told = next(call.prompt for call in coder.calls if (call.claims.run, call.claims.attempt) == (1, 2))
    assert "holds 80 numbers in one literal: data has no place in code" in told
    out = lab.export(tmp_path / "out")
    assert holds(lab, out).holds
    inside = out / "experiments/smaller_scale"
    entries = json.loads((inside / "edit_findings.json").read_bytes())
    assert [(one["attempt"], one["findings"][0]["severity"]) for one in entries] == [(1, "refused"), (2, "flagged")]
    assert "Flagged: experiment.py line 19 sets a seed of its own" in (inside / "notes.txt").read_text()
    assert lab.experiments()[0].limitations == (
        "The audit of the code flagged seeds of its own, or not all of the given ones.",
    )


def test_with_real_programs_in_the_fake_sandbox(make_lab: Callable[..., Laboratory], tmp_path: Path) -> None:
    class NoLatex(FakeSandbox):
        """Does without LaTeX: the paper's compiler is a program that leaves what it would."""

        def launch(self, spec: Spec) -> None:
            if spec.kind is Kind.COMPILE:
                left = "echo '%PDF' > main.pdf; echo 'Output written on main.pdf (6 pages, 9 bytes).' > main.log"
                object.__setattr__(spec, "command", ("sh", "-c", left))
            super().launch(spec)

    state = tmp_path / "state"
    state.mkdir()
    code = TINY["experiment.py"].replace("SCALE = 1.0", "SCALE = 1.5").encode()
    coder = ScriptedCoder({(1, 1): BROKEN, (1, 2): ({"experiment.py": code}, "RUN: Half as much again")})
    lab = make_lab(sandbox=NoLatex(state), coder=coder)
    lab.submit(runs=1)
    deadline = time.monotonic() + 60
    while not lab.direction().is_final or not steps.nothing_left(lab.store, lab.direction()):
        lab.once()
        assert time.monotonic() < deadline, lab.told()
    assert lab.direction().state is DirectionState.DONE, lab.told()
    (failed,) = lab.runs()[1].attempts
    assert "RuntimeError" in failed.error_tail
    assert lab.get(lab.runs()[1].final_info)["circle"]["means"] == {"loss": 1.875, "error": 1.875}
    assert holds(lab, lab.export(tmp_path / "out")).holds
