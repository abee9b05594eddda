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
from fumehood.domain.direction import DirectionState, Hold
from fumehood.domain.execution import Kind, Spec, Usage, Verdict
from fumehood.domain.experiment import Arm, Experiment, ExperimentOutcome, ExperimentState, Run, RunResult
from fumehood.domain.ids import ExecutionId
from fumehood.domain.machine import Lease
from fumehood.domain.tenant import LOCAL_TENANT
from fumehood.errors import BadInputError
from fumehood.gateway.upstreams import offline_paper
from fumehood.services import (
    confirmation_check,
    confirmation_report,
    confirmation_rule,
    confirmations,
    directions,
    facts,
    forks,
    guidance,
    paper,
    prose,
    results,
    revision,
    templates,
    verification,
)
from fumehood.services.change import Change
from tests.fakes.laboratory import CONFIRMING, Laboratory, act, script, step_of, write_template
from tests.fakes.laboratory import results as in_shape
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
    files: dict[str, str] | None = None,
) -> Laboratory:
    """Return a laboratory whose coder gives each run its scale; the baseline's is 1."""
    coder = ScriptedCoder({(number, 1): scaled(scale) for number, scale in enumerate(scales, start=1)})
    lab = Laboratory(folder, files=files or CONFIRMING, coder=coder, sandbox=InstantSandbox(does), model=model)
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


def test_the_folder_holds_the_code_that_was_confirmed_and_not_the_last_runs(tmp_path: Path) -> None:
    lab = laboratory(tmp_path, -4.0, 0.5)
    experiment = carried_out(lab, runs=2)
    folder = lab.export(tmp_path / "out") / "experiments" / experiment.name
    assert (folder / "experiment.py").read_bytes() == (folder / "run_1.py").read_bytes()
    assert (folder / "experiment.py").read_bytes() != (folder / "run_2.py").read_bytes()
    made = forks.fork(lab.store, lab.artifacts, lab.clock, "me", experiment.id, "plotting", forks.Edits())
    assert made.files["experiment.py"] == experiment.files["experiment.py"]
    lab.go_on()
    assert lab.experiments()[1].state is ExperimentState.DONE, lab.told()


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


def test_a_direction_whose_baseline_was_measured_for_an_earlier_one_is_confirmed_too(tmp_path: Path) -> None:
    lab = laboratory(tmp_path, -4.0)
    carried_out(lab)
    carried_out(lab)
    _, second = lab.experiments()
    assert "baseline: taken from the cache" in lab.told()
    told = [
        [event.kind for event in lab.events() if event.direction_id == one.direction_id] for one in lab.experiments()
    ]
    assert ["direction.power" in kinds for kinds in told] == [True, True], "what it can find is told of it, too"
    assert (second.state, second.label) == (ExperimentState.DONE, "better"), lab.told()
    assert checked(lab, tmp_path / "out") == []
    inside = verification.open_folder(tmp_path / "out/experiments/smaller_scale")
    keys = {
        (one.direction_id, one.key_context.rpartition(":")[2]): one.key_context
        for one in lab.executions(kind=Kind.PREPARE)
    }
    assert len(keys) == 4
    assert len(set(keys.values())) == 3, "screens share their data, sealed data are each direction's own"
    found = {name: facts.predicate(inside.read(f"{name}/record.json"))["direction"] for name in ("run_0", "confirm_1")}
    assert found["run_0"] != found["confirm_1"] == second.direction_id


def test_ideas_that_come_to_the_same_code_find_one_thing(tmp_path: Path) -> None:
    lab = laboratory(tmp_path, -4.0)
    carried_out(lab, ideas=3)
    told = [confirmation_report.read(lab.artifacts.get(one.products["confirmation.json"])) for one in lab.experiments()]
    assert len({plan.seeds for plan, _ in told}) == 1
    assert [result and result["label"] for _, result in told] == ["better"] * 3
    assert [(plan.index, plan.discoveries) for plan, _ in told] == [(0, 0), (1, 1), (1, 1)]
    assert checked(lab, tmp_path / "out") == []


Seeds = Callable[[tuple[int, ...]], bool]


def failing(*folders: str, at: Seeds = lambda _: True, verdict: Verdict = Verdict.FAILED) -> Callable[[Spec], Did]:
    """Return what programs do where runs in folders that begin so fail: at all seeds, or where these say so."""

    def does(spec: Spec) -> Did:
        if spec.kind is Kind.RUN:
            folder = next(word for word in spec.command if word.startswith("--out_dir=")).removeprefix("--out_dir=")
            seeds = tuple(map(int, spec.environment["FUMEHOOD_SEEDS"].split(",")))
            if folder.startswith(folders) and at(seeds):
                return Did(verdict=verdict, output="RuntimeError: only on these seeds")
        return act(spec)

    return does


def is_whole(seeds: tuple[int, ...]) -> bool:
    return len(seeds) > 1


def checked(lab: Laboratory, folder: Path) -> list[str]:
    return verification.verify_folder(verification.open_folder(lab.export(folder)), opener(lab)).problems


def test_seeds_that_fail_alone_too_count_as_the_worst_and_are_told(tmp_path: Path) -> None:
    lab = laboratory(tmp_path, -4.0, does=failing("confirm_1"))
    experiment = carried_out(lab)
    assert experiment.label == "worse"
    plan, result = confirmation_report.read(lab.artifacts.get(experiment.products["confirmation.json"]))
    look, *alone = [run for run in confirming_runs(lab) if run.index == 1]
    assert [run.result for run in (look, *alone)] == [RunResult.FAILED] * 5
    assert [[one.verdict for one in run.attempts] for run in (look, *alone)] == [["failed"]] * 5
    assert [(run.folder, run.seeds) for run in alone] == [
        (f"confirm_1_seed_{place}", (seed,)) for place, seed in enumerate(plan.seeds[:4], start=1)
    ]
    assert {run.id for run in (look, *alone)} == {
        one.run_id for one in lab.executions(kind=Kind.RUN) if "confirm_1" in " ".join(one.command)
    }
    assert len([one for one in lab.executions(kind=Kind.RUN) if "confirm_1" in " ".join(one.command)]) == 5
    assert result is not None
    assert (result["failed"], result["alone"]) == (4, {"confirm_1": list(plan.seeds[:4])})
    assert "confirm_1 failed, so each of its 4 seeds is run alone" in lab.told()
    assert checked(lab, tmp_path / "out") == []


def test_a_look_that_fails_is_measured_seed_by_seed_with_shares_of_its_time(tmp_path: Path) -> None:
    whole = carried_out(laboratory(tmp_path / "whole", -4.0))
    lab = laboratory(tmp_path / "alone", -4.0, does=failing("confirm_", at=is_whole, verdict=Verdict.TIMED_OUT))
    experiment = carried_out(lab)
    assert (experiment.label, whole.label) == ("better", "better"), lab.told()
    pool, look = (run for run in confirming_runs(lab) if not run.alone)
    alone = [run for run in confirming_runs(lab) if run.alone]
    assert [run.seeds for run in alone if run.index == 0] == [(seed,) for seed in pool.seeds]
    assert [run.seeds for run in alone if run.index == 1] == [(seed,) for seed in look.seeds]
    assert {run.experiment_id for run in alone if run.index == 0} == {None}
    assert {str(run.files) for run in alone if run.index == 1} == {str(look.files)}
    for kind in (Kind.RUN, Kind.EVALUATE):
        limits = {one.run_id: one.limits for one in lab.executions(kind=kind)}
        whole_s = templates.read(lab.direction(), lab.artifacts)[1].limits_of(kind).wall_s
        assert {limits[run.id].wall_s for run in alone} == {2 * whole_s / 4}, "of four seeds each twice its share"
        assert {dataclasses.replace(limits[run.id], wall_s=1.0) for run in alone} == {
            dataclasses.replace(limits[lab.runs()[0].id], wall_s=1.0)
        }
    _, result = confirmation_report.read(lab.artifacts.get(experiment.products["confirmation.json"]))
    assert result is not None
    assert (result["failed"], result["alone"]) == (0, {"confirm_0": [], "confirm_1": []})
    values = [lab.get(run.final_info)["circle"]["means"]["error"] for run in alone]
    assert result["datasets"]["circle"]["run"] == pytest.approx(sum(values[6:]) / 4)
    assert checked(lab, tmp_path / "out") == []
    inside = verification.open_folder(tmp_path / "out/experiments/smaller_scale")
    signed = json.loads(inside.read("confirm_1_seed_2/record.json"))
    assert signed["signatures"]


def test_a_second_look_may_fail_alone_and_its_seeds_are_all_there(tmp_path: Path) -> None:
    lab = laboratory(tmp_path, 0.9, rule={**SHORT, "margin": 0.05}, does=failing("confirm_2", at=is_whole))
    experiment = carried_out(lab)
    plan, result = confirmation_report.read(lab.artifacts.get(experiment.products["confirmation.json"]))
    alone = [run.seeds[0] for run in confirming_runs(lab) if run.alone]
    assert tuple(alone) == plan.seeds[4:]
    assert result is not None
    assert (result["look"], result["alone"]) == (2, {"confirm_2": []})
    assert checked(lab, tmp_path / "out") == []


def test_a_seed_that_is_run_alone_has_a_minute_where_its_look_had_little_more(tmp_path: Path) -> None:
    words = f"{CONFIRMING['template.toml']}[profiles.confirming.limits]\nrun = {{ wall_s = 90 }}\n"
    files = {**CONFIRMING, "template.toml": words}
    lab = laboratory(tmp_path, -4.0, does=failing("confirm_1", at=is_whole), files=files)
    carried_out(lab)
    alone = {run.id for run in confirming_runs(lab) if run.alone}
    assert {one.limits.wall_s for one in lab.executions(kind=Kind.RUN) if one.run_id in alone} == {60.0}


def test_a_budget_ends_amid_seeds_that_are_run_alone_and_each_is_run_once_all_the_same(tmp_path: Path) -> None:
    fails = failing("confirm_1", at=is_whole)
    lab = laboratory(tmp_path, -4.0, does=lambda spec: dataclasses.replace(fails(spec), usage=Usage(wall_s=10.0)))
    lab.submit(profile="confirming", runs=1, budget_wall_s=125.0)
    lab.go_on()
    assert lab.direction().hold is Hold.OVER_BUDGET
    assert sum(one.outcome.usage.wall_s for one in lab.executions() if one.outcome) == 130.0
    assert [run.result for run in confirming_runs(lab) if run.alone] == [RunResult.MEASURED, RunResult.PENDING]
    guidance.set_budget(lab.store, lab.clock, "me", lab.direction().id, usd=None, gpu_s=None, wall_s=None)
    lab.go_on()
    assert lab.experiments()[0].label == "better", lab.told()
    asked = [one.run_id for one in lab.executions(kind=Kind.RUN)]
    assert len(asked) == len(set(asked))
    direction, executed = lab.direction(), len(lab.executions())
    with lab.store.begin(write=False) as tx:
        assert tx.ledger.balance(direction.id).wall_s == 10.0 * executed


@pytest.mark.parametrize("bad", [1, 2])
def test_a_program_that_breaks_off_at_its_bad_seeds_gains_nothing(tmp_path: Path, bad: int) -> None:
    """Its other seeds would be better, and all that is said is that seeds failed."""
    lab = laboratory(tmp_path, -4.0, rule={**SHORT, "failed_share": 0.6})
    seeds: list[int] = []

    def at(given: tuple[int, ...]) -> bool:
        seeds[:] = seeds or given[:bad]
        return bool(set(given) & set(seeds))

    lab.sandbox.act = failing("confirm_1", at=at)
    experiment = carried_out(lab)
    assert experiment.label == "not_comparable: failed_seeds", lab.told()
    assert experiment.outcome is ExperimentOutcome.INCONCLUSIVE
    _, result = confirmation_report.read(lab.artifacts.get(experiment.products["confirmation.json"]))
    assert result is not None
    assert (result["failed"], result["alone"]) == (bad, {"confirm_1": seeds})
    assert checked(lab, tmp_path / "out") == []


def test_where_the_metric_has_a_cap_a_failed_seed_counts_as_that(tmp_path: Path) -> None:
    words = CONFIRMING["template.toml"].replace("primary = true\n", "primary = true\ncap = 50.0\n")
    lab = laboratory(tmp_path, -4.0, files={**CONFIRMING, "template.toml": words})
    seeds: list[int] = []

    def at(given: tuple[int, ...]) -> bool:
        seeds[:] = seeds or given[:1]
        return seeds[0] in given

    lab.sandbox.act = failing("confirm_1", at=at)
    experiment = carried_out(lab)
    _, result = confirmation_report.read(lab.artifacts.get(experiment.products["confirmation.json"]))
    assert result is not None
    measured = [run for run in confirming_runs(lab) if run.index and run.final_info]
    values = [value for run in measured for value in lab.get(run.final_info)["circle"]["final_info_dict"]["error"]]
    assert result["failed"] == 1
    assert result["datasets"]["circle"]["run"] == pytest.approx((50.0 + sum(values)) / (1 + len(values)))
    assert experiment.label != "better"
    assert checked(lab, tmp_path / "out") == []


def test_no_seed_is_run_twice_when_the_worker_dies_at_any_step(tmp_path: Path) -> None:
    lab = laboratory(tmp_path, -4.0, does=failing("confirm_1"))
    lab.submit(profile="confirming", runs=1)
    told: list[str] = []
    for _ in range(2000):
        due = [step for step in lab.steps("confirm_measured") if step.state.value == "due"]
        if due:
            # Begun, and its worker killed before it committed: it is begun again by the next.
            told.append(due[0].key)
            confirmations.measured(lab.write, due[0])
        if not lab.once():
            break
    assert len(told) >= 6
    assert lab.experiments()[0].label == "worse"
    alone = [run.seeds for run in confirming_runs(lab) if run.alone]
    assert len(alone) == len(set(alone)) == 4
    asked = [one.run_id for one in lab.executions(kind=Kind.RUN)]
    assert len(asked) == len(set(asked))


def test_what_an_experiment_left_pending_is_measured_for_the_next_on_the_same_seeds(tmp_path: Path) -> None:
    lab = laboratory(tmp_path, -4.0)
    lab.submit(profile="confirming", runs=1, ideas=2)
    lab.go_on(until=lambda: any(run.index == 0 for run in confirming_runs(lab)))
    (left,) = confirming_runs(lab)
    steps = lab.go_on_to("ran")
    assert steps.payload["run"] == left.id
    first = lab.experiments()[0]
    ended = first.to(ExperimentState.FAILED, error="a step of it failed")
    lab.apply(Change(experiments=(ended,), steps=(directions.close_experiment(ended),)))
    lab.go_on()
    second = lab.experiments()[1]
    assert second.state is ExperimentState.DONE, lab.told()
    assert second.label == "better"
    assert {run.seeds for run in confirming_runs(lab) if run.index == 0} == {left.seeds}
    folder = lab.export(tmp_path / "out") / "experiments" / second.name
    assert verification.verify_folder(verification.open_folder(folder), opener(lab)).problems == []


def test_a_direction_that_goes_on_from_it_starts_with_the_code_that_was_confirmed(tmp_path: Path) -> None:
    lab = laboratory(tmp_path, -4.0, 0.5)
    experiment = carried_out(lab, runs=2)
    (first,) = [run for run in lab.runs() if run.folder == "run_1"]
    assert (experiment.outcome, confirming_runs(lab)[1].confirms) == (ExperimentOutcome.CONFIRMED, first.id)
    made = lab.submit(profile="confirming", runs=1, parent=experiment.id)
    assert b"SCALE = -4.0" in lab.artifacts.get(made.parent_files["experiment.py"]), "and not with the last run's"


@pytest.mark.parametrize(
    ("step", "is_planned"), [("propose", False), ("confirm_drawn", True), ("confirm_measured", True)]
)
def test_a_lab_that_is_renewed_amid_a_direction_leaves_its_result_without_a_comparison(
    tmp_path: Path, step: str, *, is_planned: bool
) -> None:
    lab = laboratory(tmp_path, -4.0)
    lab.submit(profile="confirming", runs=1)
    lab.go_on_to(step)
    lab.sandbox.image = "sha256:newer"
    lab.go_on()
    (experiment,) = lab.experiments()
    assert (experiment.state, experiment.label) == (ExperimentState.DONE, "not_comparable: protocol_changed"), (
        lab.told()
    )
    assert ("confirmation.json" in experiment.products) is is_planned
    assert checked(lab, tmp_path / "out") == []


def test_a_baseline_of_the_same_template_under_another_name_is_compared(tmp_path: Path) -> None:
    lab = laboratory(tmp_path, -4.0)
    carried_out(lab)
    copy = write_template(tmp_path / "a_copy", CONFIRMING)
    lab.submit(profile="confirming", runs=1, template=str(copy))
    lab.go_on()
    assert lab.direction().template == "a_copy"
    assert "taken from the cache" in lab.told()
    assert [one.label for one in lab.experiments()] == ["better", "better"]
    assert checked(lab, tmp_path / "out") == []


@pytest.mark.parametrize("amid", ["confirm_drawn", "confirm_measured"])
def test_an_experiment_that_fails_amid_its_confirmation_leaves_a_folder_that_holds(tmp_path: Path, amid: str) -> None:
    lab = laboratory(tmp_path, -4.0)
    lab.submit(profile="confirming", runs=1)
    lab.go_on_to(amid)
    (amidst,) = lab.experiments()
    ended = amidst.to(ExperimentState.FAILED, error="a step of it failed")
    lab.apply(Change(experiments=(ended,), steps=(directions.close_experiment(ended),)))
    lab.go_on()
    out = lab.export(tmp_path / "out")
    report = verification.verify_folder(verification.open_folder(out), opener(lab))
    assert (report.problems, report.checks["unfinished confirmations"]) == ([], 1)
    inside = verification.open_folder(out / "experiments" / "smaller_scale")
    assert ("confirm_0/record.json" in inside.paths) is (amid == "confirm_measured")
    assert found_in(lab, inside, lambda one: one["plan"]["seeds"].reverse()) == [
        "confirmation.json: the run's seeds are not those that follow from its code"
    ]
    told = dataclasses.replace(inside, paths=(*inside.paths, "latex/main.tex"))
    assert found_in(lab, told) == ["confirmation.json: it was never finished"]


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
    lab = laboratory(tmp_path, -4.0, does=failing("confirm_0", verdict=Verdict.TIMED_OUT))
    experiment = carried_out(lab)
    assert experiment.label == "not_comparable: missing_cells"
    assert experiment.outcome is ExperimentOutcome.INCONCLUSIVE
    assert experiment.state is ExperimentState.DONE, lab.told()
    assert len([run for run in confirming_runs(lab) if run.alone]) == 6
    assert checked(lab, tmp_path / "out") == []


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


COUNTED = {
    **CONFIRMING,
    "template.toml": f'{CONFIRMING["template.toml"]}[comparison]\nequal = "updates"\nargument = "--updates"\n',
}
"""A template that says by which argument its updates are set."""


def counting(of_runs: int, *, heeds: bool = True, **more: int) -> Callable[[Spec], Did]:
    """Return what programs do where the variant makes so many updates, and the baseline ten or what it is told."""

    def does(spec: Spec) -> Did:
        did = act(spec)
        if spec.kind is not Kind.RUN:
            return did
        folder = next(word for word in spec.command if word.startswith("--out_dir=")).removeprefix("--out_dir=")
        told = [int(word.partition("=")[2]) for word in spec.command if word.startswith("--updates=")]
        base = told[0] if told and heeds else 10
        updates = base if folder in {"run_0", "confirm_0"} else of_runs
        counts = {"parameters": 5, "updates": updates, "samples_seen": updates * 4, **more}
        if folder in {"run_0", "confirm_0"}:
            counts["parameters"] = 5
        did.files[f"{folder}/parameters.json"] = json.dumps(counts).encode()
        return did

    return does


def test_a_run_with_another_budget_is_confirmed_against_a_baseline_that_has_as_much(tmp_path: Path) -> None:
    lab = laboratory(tmp_path, -4.0, files=COUNTED, does=counting(25))
    experiment = carried_out(lab)
    assert (experiment.label, experiment.outcome) == ("better", ExperimentOutcome.CONFIRMED), lab.told()
    plan, _ = confirmation_report.read(lab.artifacts.get(experiment.products["confirmation.json"]))
    assert plan.arguments == ("--updates=25",)
    pool, look = confirming_runs(lab)
    assert (pool.folder, pool.experiment_id, pool.arguments) == ("confirm_0", experiment.id, plan.arguments)
    assert pool.files == templates.start_of(lab.direction())
    assert look.arguments == ()
    records = {run.folder: facts.predicate(lab.artifacts.get(run.record)) for run in lab.runs()}
    assert {name: of["counts"]["updates"] for name, of in records.items()} == {
        "run_0": 10, "run_1": 25, "confirm_0": 25, "confirm_1": 25,
    }  # fmt: skip
    assert records["confirm_0"]["arguments"] == [*records["run_0"]["arguments"], "--updates=25"]
    forks.fork(lab.store, lab.artifacts, lab.clock, "me", experiment.id, "plotting", forks.Edits())
    lab.go_on()
    for told in lab.experiments():
        said = [one for one in told.limitations if "has 25 updates, which the baseline of the screen has not" in one]
        assert len(said) == 1, told.name
    assert checked(lab, tmp_path / "out") == []


def test_a_run_that_kept_the_budget_is_confirmed_before_one_that_did_not(tmp_path: Path) -> None:
    def does(spec: Spec) -> Did:
        return counting(10 if "--out_dir=run_2" in spec.command or "--out_dir=confirm_1" in spec.command else 99)(spec)

    lab = laboratory(tmp_path, -8.0, -4.0, files=COUNTED, does=does)
    experiment = carried_out(lab, runs=2)
    plan, _ = confirmation_report.read(lab.artifacts.get(experiment.products["confirmation.json"]))
    assert (plan.run, plan.arguments) == ("run_2", ())
    assert {run.experiment_id for run in confirming_runs(lab) if run.index == 0} == {None}
    assert checked(lab, tmp_path / "out") == []


@pytest.mark.parametrize(
    ("does", "files"),
    [
        (counting(25), CONFIRMING),
        (counting(25, parameters=6), COUNTED),
        (counting(25, heeds=False), COUNTED),
    ],
    ids=["no argument", "other parameters too", "an argument that does nothing"],
)
def test_what_no_baseline_can_match_is_not_comparable(
    tmp_path: Path, does: Callable[[Spec], Did], files: dict[str, str]
) -> None:
    lab = laboratory(tmp_path, -4.0, files=dict(files), does=does)
    experiment = carried_out(lab)
    assert experiment.label == "not_comparable: budget_mismatch"
    assert experiment.outcome is ExperimentOutcome.INCONCLUSIVE
    assert not [run for run in confirming_runs(lab) if run.index]
    assert checked(lab, tmp_path / "out") == []


@pytest.mark.parametrize("folder", ["run_1", "confirm_1"])
def test_a_program_that_leaves_a_seed_out_gets_no_label(tmp_path: Path, folder: str) -> None:
    def does(spec: Spec) -> Did:
        did = act(spec)
        for path in [path for path in did.files if path == f"{folder}/samples.json"]:
            best = sorted(json.loads(did.files[path]))[:-1]
            did = dataclasses.replace(did, files={**did.files, path: json.dumps(best).encode()})
        return did

    lab = laboratory(tmp_path, -4.0, does=does)
    experiment = carried_out(lab)
    assert experiment.label == f"not_comparable: {'screen_only' if folder == 'run_1' else 'missing_cells'}", lab.told()
    assert checked(lab, tmp_path / "out") == []


@pytest.mark.parametrize("alone", [False, True])
def test_a_program_that_trains_longer_on_fresh_seeds_than_it_did_before_is_not_comparable(
    tmp_path: Path, *, alone: bool
) -> None:
    fails = failing(*(("confirm_1",) if alone else ()), at=is_whole)

    def does(spec: Spec) -> Did:
        did = fails(spec)
        for path in [path for path in did.files if path.endswith("/samples.json")]:
            updates = 99 if path.startswith("confirm_1") else 10
            counted = json.dumps({"parameters": 5, "updates": updates}).encode()
            did = dataclasses.replace(did, files={**did.files, path.replace("samples", "parameters"): counted})
        return did

    lab = laboratory(tmp_path, -4.0, does=does)
    experiment = carried_out(lab)
    assert experiment.label == "not_comparable: budget_mismatch", lab.told()
    assert checked(lab, tmp_path / "out") == []
    inside = verification.open_folder(tmp_path / "out/experiments/smaller_scale")
    wrong = "confirmation.json: what was measured is not_comparable: budget_mismatch, and it says another thing"
    for untrue in ({"label": "better"}, {"outcome": "confirmed"}, {"contrast": 3.0}):
        assert found_in(lab, inside, lambda one, untrue=untrue: one["result"].update(untrue))[0] == wrong


@pytest.mark.parametrize("arguments", [[], ["--updates=10"]])
def test_a_baseline_that_was_started_otherwise_than_planned_is_found(tmp_path: Path, arguments: list[str]) -> None:
    lab = laboratory(tmp_path, -4.0, files=COUNTED, does=counting(25))
    carried_out(lab)
    inside = verification.open_folder(lab.export(tmp_path / "out") / "experiments" / "smaller_scale")
    value = json.loads(inside.read("confirmation.json"))
    value["plan"]["arguments"] = arguments
    changed = dataclasses.replace(
        inside, read=lambda path: json.dumps(value).encode() if path == "confirmation.json" else inside.read(path)
    )
    report = verification.Report()
    verification.experiment(changed, opener(lab), report, "")
    assert "its baseline was not given the budget of run_1" in " ".join(report.problems)
    assert "confirm_0 was started with other arguments" in " ".join(report.problems)


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


def found_in(
    lab: Laboratory, inside: verification.Folder, change: Callable[[Any], object] = lambda _: None
) -> list[str]:
    """Return what is found in an experiment's folder whose `confirmation.json` was changed."""
    value = json.loads(inside.read("confirmation.json"))
    change(value)
    changed = dataclasses.replace(
        inside, read=lambda path: json.dumps(value).encode() if path == "confirmation.json" else inside.read(path)
    )
    report = verification.Report()
    verification.experiment(changed, opener(lab), report, "")
    return report.problems


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
        (lambda one: one["result"].update(gain=9.0), "its gain does not follow from the records"),
        (lambda one: one["plan"].update(alpha=0.9), "its level is not the one that its rule gives"),
        (lambda one: one["plan"]["scale"].update(circle=0.1), "its scale is not the spread"),
        (lambda one: one["plan"]["seeds"].reverse(), "the run's seeds are not those that follow from its code"),
        (lambda one: one["plan"]["baseline_seeds"].pop(), "the baseline's seeds are not those"),
        (lambda one: one["plan"].update(code="0" * 64), "it names another code"),
        (lambda one: one["plan"].update(screened=3), "it was chosen among 3 runs, and there are records of 1"),
        (lambda one: one["plan"].update(screen_contrast=9.0), "its contrast of run_1 in the screen does not follow"),
        (lambda one: one["plan"]["rule"].update(gate=1e6), "and the screen's best run is none"),
        (lambda one: one["plan"].update(datasets=[]), "its data sets are not those that the baseline was measured on"),
        (lambda one: one["plan"]["measure"].update(direction="higher"), "it compares error otherwise than the records"),
        (lambda one: one["plan"]["measure"].update(cap=9.0), "it compares error otherwise than the records declare it"),
        (lambda one: one["plan"].update(metric="loss"), "loss is not the primary metric of the records"),
        (lambda one: one["plan"].update(held_out="fixed"), "whether its held-out data are the same for every"),
        (lambda one: one["plan"].update(kind="analysis"), "it tests another kind of claim than was registered"),
        (lambda one: one["plan"].update(expected="higher"), "it tests another kind of claim than was"),
        (lambda one: one["result"].update(alone={"confirm_1": []}), "its alone does not follow from the records"),
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


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            lambda one: one["plan"].update(discoveries=1),
            "its level counts 1 discoveries before it, and there were 0 at most",
        ),
        (lambda one: one["plan"]["rule"].update(q=0.9), "its rule is not the direction's"),
    ],
)
def test_a_level_that_the_direction_does_not_allow_is_found(
    finished: tuple[Laboratory, Path], change: Callable[[Any], Any], told: str
) -> None:
    lab, out = finished
    whole, place = verification.open_folder(out), "experiments/smaller_scale/confirmation.json"
    value = json.loads(whole.read(place))
    change(value)
    changed = dataclasses.replace(
        whole, read=lambda path: json.dumps(value).encode() if path == place else whole.read(path)
    )
    assert f"{place}: {told}" in verification.verify_folder(changed, opener(lab)).problems


def test_what_stands_out_of_all_confirmations_is_told(finished: tuple[Laboratory, Path]) -> None:
    lab, out = finished
    (line,) = json.loads((out / "summary.json").read_bytes())["experiments"]
    assert (line["label"], line["stands_out"]) == ("better", True)
    (experiment,) = lab.experiments()
    value = lab.get(experiment.products["confirmation.json"])

    def again(index: int, p: float | None, seeds: list[int] | None = None) -> Experiment:
        told = {**value, "plan": {**value["plan"], "seeds": seeds or [index, *value["plan"]["seeds"][1:]]}}
        told["result"] = {**value["result"], "p": p}
        kept = {"confirmation.json": lab.artifacts.put(json.dumps(told).encode())}
        return dataclasses.replace(experiment, products=kept)

    screened = dataclasses.replace(experiment, products={})
    # Of four, at a rate of 0.5: 0.3 <= 3/4 of it.
    some = [again(1, 0.01), again(2, 0.3), again(3, 0.9), again(4, 0.2), again(5, None), screened, again(1, 0.01)]
    found = results._together(lab.artifacts, lab.direction(), some)
    assert found == [True, True, False, True, None, None, True]


def test_two_discoveries_cannot_each_count_the_other(finished: tuple[Laboratory, Path]) -> None:
    _, out = finished
    data = (out / "experiments/smaller_scale/confirmation.json").read_bytes()

    def other(seed: int, discoveries: int) -> bytes:
        value = json.loads(data)
        value["plan"] |= {"discoveries": discoveries, "seeds": [seed, *value["plan"]["seeds"][1:]]}
        return json.dumps(value).encode()

    rule = json.loads(data)["plan"]["rule"]
    assert (
        confirmation_check.of_direction(rule, {"one": other(1, 1), "two": other(2, 0), "three": other(3, 1)}, {}) == {}
    )
    found = confirmation_check.of_direction(rule, {"one": other(1, 1), "two": other(2, 1)}, {})
    assert found == {"one": ["its level counts 1 discoveries before it, and there were 0 at most"]}
    assert confirmation_check.of_direction(rule, {"one": other(1, 0), "same code": other(1, 1)}, {}) == {}


def test_a_confirmation_that_is_left_out_leaves_a_gap(finished: tuple[Laboratory, Path]) -> None:
    _, out = finished
    value = json.loads((out / "experiments/smaller_scale/confirmation.json").read_bytes())

    def at(index: int) -> bytes:
        plan = {**value["plan"], "index": index, "seeds": [index, *value["plan"]["seeds"][1:]]}
        return json.dumps({**value, "plan": plan}).encode()

    rule, whole = value["plan"]["rule"], {str(index): at(index) for index in range(3)}
    assert confirmation_check.of_direction(rule, whole, {}) == {}
    found = confirmation_check.of_direction(rule, {"0": whole["0"], "2": whole["2"]}, {})
    assert found == {"2": ["it began after 2 confirmations, and 1 others are here: one was left out"]}


@pytest.mark.parametrize("has_plan", [True, False])
@pytest.mark.parametrize(
    "untrue", [{"label": "no_difference"}, {"outcome": "refuted"}, {"label": "not_comparable: undecided"}]
)
def test_a_label_in_the_summary_that_no_confirmation_came_to_is_found(
    finished: tuple[Laboratory, Path], untrue: dict[str, str], *, has_plan: bool
) -> None:
    lab, out = finished
    whole, place = verification.open_folder(out), "experiments/smaller_scale/confirmation.json"
    value = json.loads(whole.read("summary.json"))
    said = value["experiments"][0]
    assert (said["label"], said["outcome"]) == ("better", "confirmed")
    said |= untrue
    changed = verification.Folder(
        paths=tuple(path for path in whole.paths if has_plan or path != place),
        read=lambda path: json.dumps(value).encode() if path == "summary.json" else whole.read(path),
    )
    told = f"{place}: the summary says {said['label']}, {said['outcome']}, and no confirmation came to that"
    assert told in verification.verify_folder(changed, opener(lab)).problems


def test_terms_that_were_registered_after_the_runs_are_not_taken_for_those_of_before(
    finished: tuple[Laboratory, Path],
) -> None:
    lab, out = finished
    inside, true = (
        verification.open_folder(out / "experiments" / "smaller_scale"),
        "registration_before_run_9_attempt_1.json",
    )
    value = json.loads(inside.read("confirmation.json"))
    value["plan"]["kind"] = "analysis"
    files = {
        "confirmation.json": json.dumps(value).encode(),
        "registration.json": inside.read("registration.json").replace(b'"improvement"', b'"analysis"'),
        true: inside.read("registration.json"),
    }
    changed = verification.Folder(
        paths=(*inside.paths, true), read=lambda path: files[path] if path in files else inside.read(path)
    )
    report = verification.Report()
    verification.experiment(changed, opener(lab), report, "")
    assert "confirmation.json: it tests another kind of claim than was registered" in report.problems


def test_a_run_under_another_registration_is_found(finished: tuple[Laboratory, Path]) -> None:
    lab, out = finished
    inside = verification.open_folder(out / "experiments" / "smaller_scale")
    other = inside.read("registration.json").replace(b"lowers", b"raises")
    assert other != inside.read("registration.json")
    changed = dataclasses.replace(inside, read=lambda path: other if path == "registration.json" else inside.read(path))
    report = verification.Report()
    verification.experiment(changed, opener(lab), report, "")
    assert "run_1 was measured under a registration that is not here" in report.problems


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
            did.files["metrics.json"] = in_shape("error", [1.0] * len(values))
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


@pytest.fixture(scope="module")
def seed_by_seed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Laboratory, Path]:
    """A laboratory, and the exported folder of an experiment whose look failed and was run seed by seed."""
    folder = tmp_path_factory.mktemp("seed_by_seed")
    lab = laboratory(folder, -4.0, 0.5, does=failing("confirm_1", at=is_whole))
    carried_out(lab, runs=2)
    return lab, lab.export(folder / "out")


@pytest.mark.parametrize(
    ("left_out", "told"),
    [
        ("confirm_1_seed_3", "confirm_1_seed_3 is missing: a seed of a look that failed was not run alone"),
        ("run_2", "it was chosen among 2 runs, and there are records of 1"),
    ],
)
def test_a_seed_or_a_run_that_is_left_out_is_found(
    seed_by_seed: tuple[Laboratory, Path], left_out: str, told: str
) -> None:
    lab, out = seed_by_seed
    inside = verification.open_folder(out / "experiments" / "smaller_scale")
    report = verification.Report()
    verification.experiment(inside, opener(lab), report, "")
    assert report.problems == []
    kept = dataclasses.replace(
        inside, paths=tuple(path for path in inside.paths if not path.startswith(f"{left_out}/"))
    )
    verification.experiment(kept, opener(lab), report, "")
    assert told in " ".join(report.problems)


def test_seeds_that_were_run_alone_where_the_look_did_not_fail_are_found(
    seed_by_seed: tuple[Laboratory, Path],
) -> None:
    lab, out = seed_by_seed
    inside = verification.open_folder(out / "experiments" / "smaller_scale")
    runs = [one for one in json.loads(inside.read("runs.json")) if one["folder"] != "confirm_1"]
    changed = dataclasses.replace(
        inside, read=lambda path: json.dumps(runs).encode() if path == "runs.json" else inside.read(path)
    )
    report = verification.Report()
    verification.experiment(changed, opener(lab), report, "")
    assert "confirm_1_seed_1 was run alone, and its look did not fail" in " ".join(report.problems)


def test_the_run_that_is_confirmed_is_the_screens_best(seed_by_seed: tuple[Laboratory, Path]) -> None:
    lab, out = seed_by_seed
    inside = verification.open_folder(out / "experiments" / "smaller_scale")
    value = json.loads(inside.read("confirmation.json"))
    value["plan"].update(run="run_2", code=templates.template_hash(lab.runs()[-1].files))
    changed = dataclasses.replace(
        inside, read=lambda path: json.dumps(value).encode() if path == "confirmation.json" else inside.read(path)
    )
    report = verification.Report()
    verification.experiment(changed, opener(lab), report, "")
    assert "it confirms run_2, and the screen's best run is run_1" in " ".join(report.problems)


def test_a_confirmation_of_before_seeds_were_run_alone_still_holds(finished: tuple[Laboratory, Path]) -> None:
    lab, out = finished
    inside = verification.open_folder(out / "experiments" / "smaller_scale")
    value = json.loads(inside.read("confirmation.json"))
    for name in ("comparison", "each_alone"):
        del value["plan"][name]
    changed = dataclasses.replace(
        inside, read=lambda path: json.dumps(value).encode() if path == "confirmation.json" else inside.read(path)
    )
    report = verification.Report()
    verification.experiment(changed, opener(lab), report, "")
    assert report.problems == []
