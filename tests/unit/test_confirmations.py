"""A direction whose profile confirms: fresh seeds, the sealed arm, the label by rule, and what a folder says of it."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fumehood.artifacts.signing import key_id_of, open_envelope
from fumehood.domain.direction import DirectionState
from fumehood.domain.execution import Kind, Spec, Verdict
from fumehood.domain.experiment import Arm, Experiment, ExperimentOutcome, ExperimentState, Run, RunResult
from fumehood.domain.ids import ExecutionId
from fumehood.domain.machine import Lease
from fumehood.domain.tenant import LOCAL_TENANT
from fumehood.errors import BadInputError
from fumehood.gateway.upstreams import offline_paper
from fumehood.services import confirmation_report, confirmation_rule, paper, prose, revision, templates, verification
from tests.fakes.laboratory import CONFIRMING, Laboratory, act, results, script, step_of, write_template
from tests.fakes.model import ScriptedCoder
from tests.fakes.sandbox import Did, InstantSandbox

SHORT: dict[str, Any] = {
    "screen_seeds": 3, "looks": (4, 8), "screen_baseline": 5, "confirm_baseline": 6, "q": 0.5, "ideas": 5,
}  # fmt: skip
"""A rule of few seeds, so that a test's baseline is soon measured."""


def scaled(scale: float) -> tuple[dict[str, bytes], str]:
    """Return a coder's answer that gives `experiment.py` this scale."""
    code = re.sub(r"^SCALE = .*$", f"SCALE = {scale}", CONFIRMING["experiment.py"], flags=re.MULTILINE)
    return {"experiment.py": code.encode()}, f"RUN: Scale {scale} | the scale becomes {scale}"


def laboratory(
    folder: Path,
    *scales: float,
    does: Callable[[Spec], Did] = act,
    rule: dict[str, Any] | None = None,
    model: dict[str, Any] | None = None,
) -> Laboratory:
    """Return a laboratory whose coder gives each run its scale; the baseline's is 1."""
    coder = ScriptedCoder({(number, 1): scaled(scale) for number, scale in enumerate(scales, start=1)})
    lab = Laboratory(folder, files=CONFIRMING, coder=coder, sandbox=InstantSandbox(does), model=model)
    lab.write = dataclasses.replace(lab.write, confirm=SHORT if rule is None else rule)
    OPENED.append(lab)
    return lab


OPENED: list[Laboratory] = []


@pytest.fixture(scope="module", autouse=True)
def _closed() -> Iterator[None]:
    yield
    for lab in OPENED:
        lab.artifacts.close()
    OPENED.clear()


def carried_out(lab: Laboratory, **asked: Any) -> Experiment:
    """Carry a direction out and return its first experiment."""
    lab.submit(profile="confirming", **{"runs": 1, **asked})
    lab.go_on()
    return lab.experiments()[0]


def confirming_runs(lab: Laboratory) -> list[Run]:
    return [run for run in lab.runs() if run.arm is Arm.CONFIRM]


def test_a_true_gain_is_confirmed_on_fresh_seeds_and_sealed_data(tmp_path: Path) -> None:
    lab = laboratory(tmp_path, -4.0, 0.5)
    experiment = carried_out(lab, runs=2)
    assert (experiment.label, experiment.outcome) == ("better", ExperimentOutcome.CONFIRMED), lab.told()
    plan, result = confirmation_report.read(lab.artifacts.get(experiment.products["confirmation.json"]))
    assert result is not None
    assert plan.run == "run_1"
    assert plan.screened == 2
    pool, look = confirming_runs(lab)
    assert (pool.experiment_id, pool.seeds) == (None, plan.baseline_seeds)
    assert (look.index, look.seeds) == (1, plan.seeds[:4])
    screened = [run for run in lab.runs() if run.arm is Arm.SCREEN]
    seen = {seed for run in screened for seed in run.seeds}
    assert [len(run.seeds) for run in screened] == [5, 3, 3]
    assert len(seen | set(pool.seeds) | set(plan.seeds)) == len(seen) + 6 + 8
    arms = {one.key_context.rpartition(":")[2] for one in lab.executions(kind=Kind.PREPARE)}
    assert arms == {"screen", "confirm"}
    shown = {run.folder: lab.get(run.final_info)["circle"]["final_info_dict"]["error"] for run in (pool, look)}
    base, ours = shown["confirm_0"], shown["confirm_1"]
    assert result["datasets"]["circle"]["difference"] == pytest.approx(sum(ours) / 4 - sum(base) / 6)


def test_the_coder_is_shown_nothing_of_the_sealed_arm(tmp_path: Path) -> None:
    def does(spec: Spec) -> Did:
        did = act(spec)
        for path, data in did.files.items():
            if path.startswith("confirm_") and path.endswith("samples.json"):
                did.files[path] = json.dumps([value + 0.0054321 for value in json.loads(data)]).encode()
        return did

    lab = laboratory(tmp_path, -4.0, does=does)
    experiment = carried_out(lab, ideas=2)
    # Digits that no other number of this laboratory has.
    infos = [lab.get(run.final_info)["circle"] for run in confirming_runs(lab)]
    sealed = [str(value)[-7:] for info in infos for value in info["final_info_dict"]["error"]]
    assert min(map(len, sealed)) == 7
    asked = [*lab.coder.calls, *(call for call in lab.model.calls if call.claims.role in {"idea", "notes"})]
    assert asked
    assert not [digits for digits in sealed for call in asked if digits in str(call)]
    assert not [digits for digits in sealed if digits in experiment.notes]


@pytest.mark.parametrize(
    ("scale", "label", "outcome"),
    [
        (9.0, "worse", "refuted"),
        (1.0001, "no_difference", "refuted"),
        (0.9, "not_comparable: undecided", "inconclusive"),
    ],
)
def test_each_end_has_its_label(tmp_path: Path, scale: float, label: str, outcome: str) -> None:
    wide = {**SHORT, "margin": 6.0 if label == "no_difference" else 0.05}
    lab = laboratory(tmp_path, scale, rule=wide)
    experiment = carried_out(lab)
    assert (experiment.label, experiment.outcome) == (label, outcome), lab.told()
    assert experiment.state is ExperimentState.DONE


def test_what_the_first_look_leaves_open_gets_a_second_with_more_seeds(tmp_path: Path) -> None:
    lab = laboratory(tmp_path, 0.9, rule={**SHORT, "margin": 0.05})
    experiment = carried_out(lab)
    plan, result = confirmation_report.read(lab.artifacts.get(experiment.products["confirmation.json"]))
    assert [run.folder for run in confirming_runs(lab)] == ["confirm_0", "confirm_1", "confirm_2"]
    assert confirming_runs(lab)[2].seeds == plan.seeds[4:]
    assert result is not None
    assert result["look"] == 2


def test_the_next_idea_is_judged_against_the_same_pool_at_a_level_raised_by_what_was_found(tmp_path: Path) -> None:
    lab = laboratory(tmp_path, -4.0)
    carried_out(lab, ideas=2)
    first, second = lab.experiments()
    plans = [
        confirmation_report.read(lab.artifacts.get(one.products["confirmation.json"]))[0] for one in (first, second)
    ]
    assert [(plan.index, plan.discoveries) for plan in plans] == [(0, 0), (1, 1)]
    assert [plan.alpha for plan in plans] == [pytest.approx(0.1), pytest.approx(0.2)]
    pools = [run for run in confirming_runs(lab) if run.index == 0]
    assert len(pools) == 1
    drawn = [one for one in lab.executions(kind=Kind.PREPARE) if "--part=train" in one.command]
    assert [one.key_context.rpartition(":")[2] for one in drawn] == ["screen", "confirm", "confirm"]
    asked = [next(word for word in one.command if word.startswith("--seeds=")) for one in drawn[1:]]
    assert [len(word.split(",")) for word in asked] == [6 + 8, 8]


def test_seeds_that_fail_count_as_the_worst_and_are_told(tmp_path: Path) -> None:
    def does(spec: Spec) -> Did:
        if spec.kind is Kind.RUN and "--out_dir=confirm_1" in spec.command:
            return Did(verdict=Verdict.FAILED, output="RuntimeError: only on these seeds")
        return act(spec)

    lab = laboratory(tmp_path, -4.0, does=does)
    experiment = carried_out(lab)
    assert experiment.label == "worse"
    look = confirming_runs(lab)[1]
    assert look.result is RunResult.FAILED
    assert [one.verdict for one in look.attempts] == ["failed", "failed"]
    assert len(lab.executions(kind=Kind.RUN, run_id=look.id)) == 2
    assert (
        verification.verify_folder(verification.open_folder(lab.export(tmp_path / "out")), opener(lab)).problems == []
    )


@pytest.mark.parametrize(
    ("shared_from", "label", "is_planned"),
    [
        ("", "better", True),
        ("propose", "not_comparable: shared_device", False),
        ("confirm_drawn", "not_comparable: shared_device", True),
    ],
)
def test_a_time_is_confirmed_only_where_every_run_had_its_device_alone(
    tmp_path: Path, shared_from: str, label: str, *, is_planned: bool
) -> None:
    lab = laboratory(tmp_path, -4.0)
    timed = CONFIRMING["template.toml"].replace("primary = true", "primary = true\nis_time = true")
    write_template(lab.template, {"template.toml": timed})
    lab.submit(profile="confirming", runs=1)

    def goes_on() -> bool:
        lab.clock.advance(0.01)
        if shared_from and lab.steps(shared_from):
            with lab.store.begin() as tx:
                other = ExecutionId("exec_other")
                tx.leases.save(Lease(id="exec_other:0", tenant=LOCAL_TENANT, execution_id=other))
        return False

    lab.go_on(until=goes_on)
    (experiment,) = lab.experiments()
    assert (experiment.label, experiment.state) == (label, ExperimentState.DONE), lab.told()
    assert ("confirmation.json" in experiment.products) is is_planned


def test_a_baseline_that_fails_on_sealed_data_labels_nothing(tmp_path: Path) -> None:
    def does(spec: Spec) -> Did:
        if spec.kind is Kind.RUN and "--out_dir=confirm_0" in spec.command:
            return Did(verdict=Verdict.TIMED_OUT)
        return act(spec)

    lab = laboratory(tmp_path, -4.0, does=does)
    experiment = carried_out(lab)
    assert experiment.label == "not_comparable: missing_cells"
    assert experiment.outcome is ExperimentOutcome.INCONCLUSIVE
    assert experiment.state is ExperimentState.DONE, lab.told()


def test_a_run_beyond_the_baselines_budget_is_not_confirmed(tmp_path: Path) -> None:
    def does(spec: Spec) -> Did:
        did = act(spec)
        if spec.kind is Kind.RUN:
            folder = next(word for word in spec.command if word.startswith("--out_dir=")).removeprefix("--out_dir=")
            size = 10 if folder == "run_0" else 99
            did.files[f"{folder}/parameters.json"] = json.dumps({"parameters": size}).encode()
        return did

    experiment = carried_out(lab := laboratory(tmp_path, -4.0, does=does))
    assert experiment.label == "not_comparable: budget_mismatch"
    assert not confirming_runs(lab)


def test_a_gate_spares_the_seeds_of_what_the_screen_does_not_show(tmp_path: Path) -> None:
    lab = laboratory(tmp_path, 3.0, rule={**SHORT, "gate": 0.5})
    experiment = carried_out(lab)
    assert experiment.label == "not_comparable: screen_only"
    assert not confirming_runs(lab)
    assert "confirmation.json" not in experiment.products


def test_a_profile_that_does_not_confirm_has_no_rule(tmp_path: Path) -> None:
    lab = laboratory(tmp_path, -4.0)
    lab.submit(profile="tiny", runs=1)
    lab.go_on()
    assert lab.direction().rule is None
    assert lab.experiments()[0].label == "not_comparable: screen_only"


def test_settings_that_make_no_rule_are_said_before_anything_is_done(tmp_path: Path) -> None:
    lab = laboratory(tmp_path, rule={"looks": (9, 9)})
    lab.submit(profile="confirming")
    lab.go_on()
    assert lab.direction().state is DirectionState.FAILED
    assert "FUMEHOOD_CONFIRM" in lab.direction().error
    template, profile = templates.read(lab.direction(), lab.artifacts)
    with pytest.raises(BadInputError, match="second look"):
        confirmation_rule.rule_of(template, profile, CONFIRMING, 1, {"looks": (9, 9)})


def test_fresh_seeds_follow_from_the_code_and_are_no_screens() -> None:
    one = confirmation_rule.fresh_seeds("dir_1", {"experiment.py": "aa"}, 500)
    assert one == confirmation_rule.fresh_seeds("dir_1", {"experiment.py": "aa"}, 500)
    assert len(set(one)) == 500
    assert not set(one) & set(confirmation_rule.fresh_seeds("dir_1", {"experiment.py": "ab"}, 500))
    assert not set(one) & set(confirmation_rule.fresh_seeds("dir_2", {"experiment.py": "aa"}, 500))
    assert min(one) > 1_000_001_000
    assert max(one) < 2**31


def opener(lab: Laboratory) -> Any:
    key = lab.signer.public_key_bytes()
    return lambda data, kind: open_envelope(data, {key_id_of(key): key}, kind)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Laboratory, Path]:
    """A confirmed experiment's laboratory and exported folder."""

    def section(call: Any) -> str:
        if call.claims.subject == "title":
            return "A Confirmed Scale"
        number = " $C$ is [[num: confirmation.contrast]] at [[num: confirmation.alpha]]." * (
            call.claims.subject == "results"
        )
        return f"The {call.claims.subject.replace('_', ' ')} of this confirmed study is plain.{number}"

    folder = tmp_path_factory.mktemp("confirmed")
    lab = laboratory(folder, -4.0, model=script(section=section, title=section, refine=section))
    carried_out(lab)
    return lab, lab.export(folder / "out")


def test_a_confirmed_folder_verifies_and_its_paper_prints_the_confirmation(finished: tuple[Laboratory, Path]) -> None:
    lab, out = finished
    report = verification.verify_folder(verification.open_folder(out), opener(lab))
    assert report.problems == []
    assert report.checks["confirmations"] == 1
    inside = out / "experiments" / "smaller_scale"
    assert (inside / "confirm_1" / "record.json").is_file()
    claims = json.loads((inside / "claims.json").read_text())
    assert {claim["pointer"] for claim in claims if claim["source"] == "confirmation.json"} >= {
        "result/contrast", "plan/alpha", "result/datasets/circle/difference",
    }  # fmt: skip
    assert "tab:confirmation" in (inside / "latex/main.tex").read_text()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda one: one["result"].update(label="worse"), "its label does not follow from the records"),
        (lambda one: one["result"].update(contrast=9.0), "its contrast does not follow from the records"),
        (lambda one: one["plan"]["scale"].update(circle=0.1), "its scale is not the spread"),
        (lambda one: one["plan"]["seeds"].reverse(), "the run's seeds are not those that follow from its code"),
        (lambda one: one["plan"]["baseline_seeds"].pop(), "the baseline's seeds are not those"),
        (lambda one: one["plan"].update(code="0" * 64), "it names another code"),
        (lambda one: one["plan"].update(run="run_9"), "it rests on run_9, which has no signed record"),
        (lambda one: one.update(result=None), "it was never finished"),
        (lambda one: one["plan"].pop("rule"), "it cannot be read"),
    ],
)  # fmt: skip
def test_a_confirmation_that_does_not_follow_from_the_records_is_found(
    finished: tuple[Laboratory, Path], change: Callable[[Any], Any], told: str
) -> None:
    lab, out = finished
    inside = verification.open_folder(out / "experiments" / "smaller_scale")
    value = json.loads(inside.read("confirmation.json"))
    change(value)
    changed = dataclasses.replace(
        inside, read=lambda path: json.dumps(value).encode() if path == "confirmation.json" else inside.read(path)
    )
    report = verification.Report()
    verification.experiment(changed, opener(lab), report, "")
    assert told in " ".join(report.problems)


@pytest.mark.parametrize("label", ["better", "worse", "no_difference", "not_comparable: undecided", "no look"])
def test_the_offline_model_writes_of_a_confirmation_what_may_stand(
    finished: tuple[Laboratory, Path], label: str
) -> None:
    lab, _ = finished
    subject = paper.read(lab.write, step_of(lab.direction(), "write_section", lab.experiments()[0]))
    facts = subject.facts
    told = {**facts["confirmation"], "label": label} if facts["confirmation"] else None
    if told and label == "no look":
        told |= {"label": "not_comparable: missing_cells", "look": 0, "datasets": []}
    facts = {**facts, "confirmation": told}
    seen: list[str] = []
    for section in (*(one for one in paper.ORDER if one != "abstract"), "abstract"):
        text = offline_paper.compose(section, facts, {})
        kept, problems = revision.revise(section, text, facts, paper.tools_of(lab.write), seen=seen)
        assert problems == (), section
        seen += prose.sentences(kept)
        if section in {"abstract", "results"}:
            assert "confirm" in kept
    assert facts["outcome"] == "confirmed"


@pytest.mark.parametrize("left_out", ["confirm_1", "confirm_0"])
def test_a_look_that_is_left_out_is_found(finished: tuple[Laboratory, Path], left_out: str) -> None:
    lab, out = finished
    inside = verification.open_folder(out / "experiments" / "smaller_scale")
    kept = dataclasses.replace(inside, paths=tuple(path for path in inside.paths if not path.startswith(left_out)))
    report = verification.Report()
    verification.experiment(kept, opener(lab), report, "")
    assert any("confirmation.json" in problem for problem in report.problems)


def test_what_a_direction_can_find_is_told_before_its_first_idea(tmp_path: Path) -> None:
    lab = laboratory(tmp_path, -4.0)
    carried_out(lab)
    told = [event.kind for event in lab.events()]
    assert told.index("run.measured") < told.index("direction.power") < told.index("idea.proposed")
    text = next(event.text for event in lab.events() if event.kind == "direction.power")
    assert re.search(
        r"an effect of [\d.]+ baseline standard deviations in 80% of cases, with 8 seeds; in error: circle", text
    )
    assert "direction.underfunded" not in told


def test_a_budget_that_ends_before_the_first_label_is_told(tmp_path: Path) -> None:
    def does(spec: Spec) -> Did:
        did = act(spec)
        return dataclasses.replace(did, usage=dataclasses.replace(did.usage, wall_s=10.0))

    lab = laboratory(tmp_path, -4.0, does=does)
    lab.submit(profile="confirming", budget_wall_s=45.0)
    lab.go_on()
    text = next(event.text for event in lab.events() if event.kind == "direction.underfunded")
    assert "the budget of 45 s does not reach the first confirmation" in text


def test_a_baseline_without_a_spread_says_that_nothing_can_be_confirmed(tmp_path: Path) -> None:
    def does(spec: Spec) -> Did:
        did = act(spec)
        if spec.kind is Kind.EVALUATE:
            values = json.loads(
                next(Path(one.source) for one in spec.inputs if one.path.endswith("samples.json")).read_bytes()
            )
            did.files["metrics.json"] = results("error", [1.0] * len(values))
        return did

    lab = laboratory(tmp_path, -4.0, does=does)
    experiment = carried_out(lab)
    assert "direction.blind" in [event.kind for event in lab.events()]
    assert experiment.label in {"not_comparable: screen_only", "not_comparable: no_scale"}


def test_a_run_that_did_what_the_baseline_did_is_not_confirmed(tmp_path: Path) -> None:
    idle = {"experiment.py": f"{CONFIRMING['experiment.py']}# a new loss\n".encode()}, "RUN: New loss | robust"
    alone = laboratory(tmp_path / "alone")
    alone.coder.script[1, 1] = idle
    experiment = carried_out(alone)
    assert experiment.label == "not_comparable: screen_only"
    assert confirming_runs(alone) == []
    assert experiment.limitations[0] == (
        "A part of the change has no effect (New loss): measured exactly the numbers of the baseline at every seed and"
        " data set."
    )
    both = laboratory(tmp_path / "both", 1.0, 4.0, rule={**SHORT, "gate": None})
    both.coder.script[1, 1] = idle
    experiment = carried_out(both, runs=2)
    plan, _ = confirmation_report.read(both.artifacts.get(experiment.products["confirmation.json"]))
    assert plan.run == "run_2", "though it is worse than a run that did nothing"
