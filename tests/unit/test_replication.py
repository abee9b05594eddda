"""What is confirmed is repeated by who sees the method section alone, where the setting says so."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fumehood.artifacts.signing import key_id_of, open_envelope
from fumehood.domain.direction import DirectionState
from fumehood.domain.experiment import Arm, ExperimentOutcome, ExperimentState
from fumehood.domain.idea import IdeaKind
from fumehood.gateway.upstreams.playbook import Playbook
from fumehood.services import results, verification
from tests.fakes.laboratory import CONFIRMING, Laboratory, script
from tests.fakes.model import ScriptedCoder
from tests.fakes.quick import playbook

METHOD = "We set the scale to a small value [[num: run_1.error.mean]] and change nothing else in this confirmed study."
RULE: dict[str, Any] = {
    "screen_seeds": 3, "looks": (4, 8), "screen_baseline": 5, "confirm_baseline": 6, "q": 0.5, "ideas": 5,
}  # fmt: skip


def scaled(scale: float) -> tuple[dict[str, bytes], str]:
    code = re.sub(r"^SCALE = .*$", f"SCALE = {scale}", CONFIRMING["experiment.py"], flags=re.MULTILINE)
    return {"experiment.py": code.encode()}, f"RUN: Scale {scale} | the scale becomes {scale}"


class Coder(ScriptedCoder):
    """Gives the study one scale, and its replication another."""

    def __init__(self, study: float, again: float) -> None:
        super().__init__()
        self._study, self._again = scaled(study), scaled(again)

    def edit(self, call: Any, *rest: Any) -> Any:
        if call.claims.role == "coder":
            is_again = call.claims.idea.startswith("replicate_")
            self.script = {(call.claims.run, 1): self._again if is_again else self._study}
        return super().edit(call, *rest)


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Any]:
    labs: list[Laboratory] = []

    def make(study: float, again: float, *, replicate: bool = True) -> Laboratory:
        def section(call: Any) -> str:
            if call.claims.subject == "method":
                return METHOD
            about = call.claims.subject.replace("_", " ")
            return f"The {about} of this study is confirmed, refuted or inconclusive, and short."

        lab = Laboratory(
            tmp_path / f"lab_{len(labs)}", files=CONFIRMING, coder=Coder(study, again),
            model=script(section=section, title=section, refine=section),
        )  # fmt: skip
        labs.append(lab)
        lab.write = dataclasses.replace(lab.write, confirm=RULE, replicate=replicate)
        lab.submit(profile="confirming", runs=2)
        lab.go_on()
        return lab

    yield make
    for lab in labs:
        lab.artifacts.close()


@pytest.mark.parametrize(
    ("again", "outcome", "result"),
    [(-4.0, "confirmed", "supports"), (9.0, "refuted", "refutes"), (1.0001, "inconclusive", "inconclusive")],
)
def test_a_confirmed_study_is_repeated_and_told_what_came_of_it(
    made: Any, again: float, outcome: str, result: str
) -> None:
    lab = made(-4.0, again)
    study, repeated = lab.experiments()
    assert study.outcome is ExperimentOutcome.CONFIRMED, lab.told()
    assert repeated.replicates == study.id
    assert (repeated.outcome, repeated.state) == (outcome, ExperimentState.DONE), lab.told()
    assert lab.direction().state is DirectionState.DONE
    (_, idea) = lab.ideas()
    assert (idea.kind, idea.name) == (IdeaKind.REPLICATION, "replicate_smaller_scale")
    direction = lab.direction()
    with lab.store.begin(write=False) as tx:
        lines = results.summary(tx, lab.artifacts, direction)["experiments"]
    assert [line["replication"] for line in lines] == [
        {"experiment": "replicate_smaller_scale", "state": "done", "result": result}, None,
    ]  # fmt: skip
    assert f"replication.ended: replicate_smaller_scale: {result}" in lab.told()


def test_its_coder_sees_the_method_section_and_the_untouched_template_alone(made: Any) -> None:
    lab = made(-4.0, -4.0)
    calls = [
        (call, files)
        for call, files in zip(lab.coder.calls, lab.coder.given, strict=True)
        if call.claims.role == "coder" and call.claims.idea.startswith("replicate_")
    ]
    assert len(calls) == 1
    ((call, files),) = calls
    assert files["experiment.py"].decode() == CONFIRMING["experiment.py"]
    shown = str(call)
    assert "We set the scale to a small value and change nothing else" in shown.replace("  ", " ")
    (idea, _) = lab.ideas()
    assert idea.changes == ("scale",)
    assert "It may change only: what the plan needs" in call.prompt, "what was registered is the study's, too"
    for hidden in (idea.title, idea.experiment, "Scale -4.0", "[[num"):
        assert hidden not in shown


def test_a_replication_has_one_run_and_is_itself_not_replicated(made: Any) -> None:
    lab = made(-4.0, -4.0)
    assert len(lab.experiments()) == 2
    runs = [run for run in lab.runs() if run.experiment_id == lab.experiments()[1].id]
    assert sorted(run.folder for run in runs if run.folder.startswith("run_")) == ["run_1"]


def test_nothing_is_replicated_unless_the_setting_says_so_and_nothing_that_was_not_confirmed(made: Any) -> None:
    assert len(made(-4.0, -4.0, replicate=False).experiments()) == 1
    assert len(made(9.0, -4.0).experiments()) == 1


def test_the_finished_folder_verifies_and_says_what_it_repeats(made: Any, tmp_path: Path) -> None:
    lab = made(-4.0, -4.0)
    out = lab.export(tmp_path / "out")
    key = lab.signer.public_key_bytes()
    opened = lambda data, kind: open_envelope(data, {key_id_of(key): key}, kind)  # noqa: E731
    assert verification.verify_folder(verification.open_folder(out), opened).problems == []
    source = (out / "experiments/replicate_smaller_scale/latex/main.tex").read_text()
    assert "repeats a confirmed one" in source
    study, again = (
        {seed for run in lab.runs() if run.experiment_id == one.id and run.arm is Arm.CONFIRM for seed in run.seeds}
        for one in lab.experiments()
    )
    assert study, "and its code came out the same"
    assert not study & again


def test_the_offline_model_repeats_a_whole_method_at_once() -> None:
    import tomllib

    book = Playbook(tomllib.loads(playbook()))
    said = book.edit("replicate_smaller_scale", 1, 1)
    assert said.startswith("RUN: ")
    assert "SCALE = 0.5" in said
    assert book.edit("replicate_smaller_scale", 1, 1, mending=True) == "No further edit."
