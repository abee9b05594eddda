"""Measuring: what each container is given and what it never sees, and what becomes of a run that ends badly."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fumehood.domain.direction import DirectionState
from fumehood.domain.execution import Device, Kind, Outcome, Spec, Verdict
from fumehood.domain.experiment import Execution, ExperimentState, RunResult
from fumehood.services.change import Change
from tests.fakes.laboratory import PLAIN, TINY, Laboratory, act
from tests.fakes.sandbox import Did, InstantSandbox

QUERY = TINY["template.toml"] + '\n[query]\nkind = "sample"\n'


def acting(**kinds: Callable[[Spec], Did | None]) -> InstantSandbox:
    """Return a sandbox that does some kinds of execution otherwise."""
    return InstantSandbox(lambda spec: kinds[spec.kind](spec) if spec.kind in kinds else act(spec))


def one(lab: Laboratory, kind: Kind) -> Any:
    found = lab.executions(kind=kind)
    return found[0]


class TestPrepare:
    def test_both_parts_are_drawn_with_the_platforms_key_and_without_code(self, lab: Laboratory) -> None:
        lab.submit()
        lab.go_on_to("baseline")
        train, answers = lab.executions(kind=Kind.PREPARE)
        assert ["--part=train" in train.command, "--part=answers" in answers.command] == [True, True]
        assert "--seeds=1,2" in train.command
        assert train.key_context == answers.key_context
        assert train.key_context.endswith(":screen")
        assert not {"in/template/experiment.py", "in/template/plot.py"} & set(train.inputs)

    def test_a_direction_may_move_its_seeds(self, lab: Laboratory) -> None:
        lab.submit(seed=2)
        lab.go_on_to("propose")
        assert lab.runs()[0].seeds == (2001, 2002)

    def test_a_template_that_prepares_nothing_begins_with_its_baseline(
        self, make_lab: Callable[..., Laboratory]
    ) -> None:
        lab = make_lab(files=PLAIN)
        lab.submit()
        lab.go_on_to("propose")
        assert [execution.kind for execution in lab.executions()] == [Kind.RUN]
        assert "FUMEHOOD_DATA" not in one(lab, Kind.RUN).environment
        assert lab.runs()[0].seeds == ()

    def test_data_that_cannot_be_drawn_ends_the_direction_and_says_why(
        self, make_lab: Callable[..., Laboratory]
    ) -> None:
        lab = make_lab(sandbox=acting(prepare=lambda _: Did(verdict=Verdict.FAILED, output="no such file")))
        lab.submit()
        lab.go_on()
        assert lab.direction().state is DirectionState.FAILED
        assert lab.direction().error == "prepare.py ended failed: no such file"
        assert lab.model.calls == []


class TestWhoSeesWhat:
    @pytest.fixture
    def measured(self, lab: Laboratory) -> Laboratory:
        lab.submit(runs=1)
        lab.go_on_to("plot")
        return lab

    def test_a_run_sees_code_and_training_data_and_nothing_frozen(self, measured: Laboratory) -> None:
        for run in measured.executions(kind=Kind.RUN):
            assert set(run.inputs) == {"work/experiment.py", "work/plot.py", "in/data/data.txt"}
            assert run.environment["FUMEHOOD_SEEDS"] == "1,2"
            assert run.environment["FUMEHOOD_DATA"] == "/in/data"
            assert run.key_context == ""

    def test_the_training_data_are_not_the_answers(self, measured: Laboratory) -> None:
        run, judged = one(measured, Kind.RUN), one(measured, Kind.EVALUATE)
        assert run.inputs["in/data/data.txt"] == judged.inputs["in/train/data.txt"]
        assert run.inputs["in/data/data.txt"] != judged.inputs["in/held_out/data.txt"]

    def test_the_evaluator_sees_outputs_and_answers_and_never_the_code(self, measured: Laboratory) -> None:
        for judged in measured.executions(kind=Kind.EVALUATE):
            assert "in/outputs/samples.json" in judged.inputs
            assert not [path for path in judged.inputs if path.endswith(("experiment.py", "plot.py"))]
            assert judged.key_context == ""

    def test_a_baseline_is_the_templates_own_code(self, measured: Laboratory) -> None:
        files = measured.direction().template_files
        assert measured.runs()[0].files["experiment.py"] == files["experiment.py"]
        assert measured.runs()[1].files["experiment.py"] != files["experiment.py"]

    def test_what_is_asked_for_does_not_depend_on_chance(self, measured: Laboratory) -> None:
        assert one(measured, Kind.RUN).collect == ("run_0/*.json", "run_0/final_info.json")


class TestQuery:
    @pytest.fixture
    def asked(self, make_lab: Callable[..., Laboratory]) -> Laboratory:
        def answer(_: Spec) -> Did:
            return Did(files={"answers/samples.json": b"[7.0, 9.0]", "answers/record.json": b"{}"})

        lab = make_lab(files={**TINY, "serve.py": "x = 1\n", "template.toml": QUERY}, sandbox=acting(query=answer))
        lab.submit()
        lab.go_on_to("propose")
        return lab

    def test_the_model_is_asked_without_training_data_or_answers(self, asked: Laboratory) -> None:
        query = one(asked, Kind.QUERY)
        tops = {"/".join(path.split("/")[:2]) for path in query.inputs}
        assert tops == {"in/code", "in/outputs", "in/driver.py", "in/counting.py"}
        assert "FUMEHOOD_DATA" not in query.environment

    def test_the_evaluator_gets_the_answers_alone(self, asked: Laboratory) -> None:
        judged = one(asked, Kind.EVALUATE)
        outputs = [path for path in judged.inputs if path.startswith("in/outputs/")]
        assert outputs == ["in/outputs/samples.json"]
        assert asked.get(asked.runs()[0].final_info)["circle"]["means"]["error"] == 8.0

    def test_a_model_that_predicts_gets_inputs_and_no_labels(self, make_lab: Callable[..., Laboratory]) -> None:
        query = self.queried(make_lab, 'kind = "predict"')
        given = [path for path in query.inputs if path.startswith("in/inputs/")]
        assert given == ["in/inputs/data.txt"]
        assert "--kind=predict" in query.command

    def test_characters_are_asked_for_by_a_program_that_holds_the_text(
        self, make_lab: Callable[..., Laboratory]
    ) -> None:
        query = self.queried(make_lab, 'kind = "characters"\nblock = 16\nstreams = 4\ntolerance = 0.01')
        assert query.command[:5] == (
            *("python", "/in/driver/characters.py", "--block=16", "--streams=4", "--tolerance=0.01"),
        )
        # Where it may be removed, which it is before anything of the experiment starts.
        assert "work/held_out/data.txt" in query.inputs
        programs = {path for path in query.inputs if path.startswith("in/driver/")}
        assert programs == {f"in/driver/{name}.py" for name in ("characters", "answerer", "confinement", "counting")}

    def test_extra_packages_are_not_on_the_path_of_the_program_that_holds_the_text(
        self, make_lab: Callable[..., Laboratory]
    ) -> None:
        holding = self.queried(make_lab, 'kind = "characters"', packages=("tiny==1.0",))
        assert holding.image.startswith("lab-")
        assert holding.environment["PYTHONPATH"] == "/lab/site-packages"
        assert "--packages=/lab/extra" in holding.command
        # Without a text to be kept from them, the program has them as any other.
        without = self.queried(make_lab, 'kind = "predict"', packages=("tiny==1.0",))
        assert without.image == holding.image
        assert "PYTHONPATH" not in without.environment
        # And where there are none, it is asked as ever.
        plain = self.queried(make_lab, 'kind = "characters"')
        assert (plain.image, "PYTHONPATH" in plain.environment) == ("lab", False)
        assert not any(word.startswith("--packages") for word in plain.command)

    @staticmethod
    def queried(make_lab: Callable[..., Laboratory], query: str, **changes: Any) -> Any:
        toml = f"{TINY['template.toml']}\n[query]\n{query}\n"
        lab = make_lab(
            files={**TINY, "serve.py": "x = 1\n", "template.toml": toml},
            sandbox=acting(query=lambda _: Did(files={"answers/samples.json": b"[7.0, 9.0]"})),
        )
        lab.submit(**changes)
        lab.go_on_to("propose")
        return one(lab, Kind.QUERY)


class TestWhatARunLeaves:
    @pytest.mark.parametrize(("most", "state"), [(0.000001, DirectionState.FAILED), (0.001, None)])
    def test_a_checkpoint_with_room_for_the_training_data_is_refused(
        self, make_lab: Callable[..., Laboratory], most: float, state: DirectionState | None
    ) -> None:
        toml = QUERY.replace("[profiles.tiny]\n", f"[profiles.tiny]\ncheckpoint_mib = {most}\n")
        asked = acting(query=lambda _: Did(files={"answers/samples.json": b"[7.0, 9.0]"}))
        lab = make_lab(files={**TINY, "serve.py": "x = 1\n", "template.toml": toml}, sandbox=asked)
        lab.submit()
        lab.go_on(until=lambda: bool(lab.steps("propose")) or lab.direction().is_final)
        if state is None:
            assert lab.executions(kind=Kind.QUERY)
        else:
            assert lab.direction().state is state
            assert "MiB for each data set and seed, and may have 1e-06" in lab.direction().error
            assert not lab.executions(kind=Kind.QUERY)

    def test_names_that_are_the_platforms_are_not_kept(self, make_lab: Callable[..., Laboratory]) -> None:
        def sly(spec: Spec) -> Did:
            did = act(spec)
            extra = dict.fromkeys(("record.json", "self_reported.json"), b'{"forged": true}')
            return dataclasses.replace(
                did, files={**did.files, **{f"run_0/{path}": data for path, data in extra.items()}}
            )

        lab = make_lab(sandbox=acting(run=sly))
        lab.submit()
        lab.go_on_to("propose")
        run = lab.runs()[0]
        assert set(run.outputs) == {"samples.json"}
        assert b"forged" not in lab.artifacts.get(run.record) + lab.artifacts.get(run.self_reported)

    def test_what_it_printed_is_kept(self, lab: Laboratory) -> None:
        lab.submit()
        lab.go_on_to("propose")
        assert lab.artifacts.get(lab.runs()[0].log) == b"done"


class TestBadEnds:
    def carried(self, lab: Laboratory) -> Laboratory:
        lab.submit(runs=1)
        lab.go_on(until=lambda: bool(lab.steps("plot")) or lab.direction().is_final)
        return lab

    def only_for_runs(self, did: Callable[[Did], Did]) -> Callable[[Spec], Did | None]:
        return lambda spec: did(act(spec)) if "--out_dir=run_1" in spec.command else act(spec)

    def test_a_run_without_results_is_told_so(self, make_lab: Callable[..., Laboratory]) -> None:
        lab = self.carried(make_lab(sandbox=acting(run=self.only_for_runs(lambda _: Did(output="fine")))))
        attempts = lab.runs()[1].attempts
        assert [attempt.verdict for attempt in attempts] == ["no_result"] * 4
        assert "wrote no run_1/final_info.json" in attempts[0].error_tail

    @pytest.mark.parametrize("junk", [b"nan", b'{"circle": {"means": {"loss": NaN}}}', b"[" * 9999, b""])
    def test_a_run_whose_numbers_cannot_be_used_is_told_so(
        self, make_lab: Callable[..., Laboratory], junk: bytes
    ) -> None:
        def spoilt(did: Did) -> Did:
            return dataclasses.replace(did, files={**did.files, "run_1/final_info.json": junk})

        lab = self.carried(make_lab(sandbox=acting(run=self.only_for_runs(spoilt))))
        attempts = lab.runs()[1].attempts
        assert [attempt.verdict for attempt in attempts] == ["no_result"] * 4
        assert lab.runs()[1].result is RunResult.FAILED
        assert lab.experiments()[0].state is ExperimentState.FAILED

    def test_what_the_evaluator_refuses_is_fed_back(self, make_lab: Callable[..., Laboratory]) -> None:
        def refuse(spec: Spec) -> Did:
            values = json.loads(
                next(Path(i.source) for i in spec.inputs if i.path.endswith("samples.json")).read_bytes()
            )
            return act(spec) if values[0] < 1.5 else Did(verdict=Verdict.FAILED, output="wrong shape")

        lab = self.carried(make_lab(sandbox=acting(evaluate=refuse)))
        assert lab.runs()[1].attempts[0].error_tail == "the evaluator refused what the run left: wrong shape"
        assert lab.runs()[1].outputs == {}

    @pytest.mark.parametrize("verdict", [Verdict.TIMED_OUT, Verdict.OUT_OF_MEMORY, Verdict.TOO_MUCH_OUTPUT])
    def test_a_verdict_of_the_sandbox_is_an_attempt_of_that_name(
        self, make_lab: Callable[..., Laboratory], verdict: Verdict
    ) -> None:
        def end(_: Did) -> Did:
            return Did(verdict=verdict, output="so far")

        lab = self.carried(make_lab(sandbox=acting(run=self.only_for_runs(end))))
        assert {attempt.verdict for attempt in lab.runs()[1].attempts} == {verdict.value}

    def test_a_baseline_that_fails_ends_the_direction(self, make_lab: Callable[..., Laboratory]) -> None:
        lab = self.carried(make_lab(sandbox=acting(run=lambda _: Did(verdict=Verdict.FAILED, output="ImportError"))))
        assert lab.direction().state is DirectionState.FAILED
        assert lab.direction().error == "the template's own experiment.py ended failed: ImportError"
        assert lab.model.calls == []

    def test_what_the_platform_lost_is_never_charged_to_the_idea(self, make_lab: Callable[..., Laboratory]) -> None:
        lab = self.carried(make_lab(sandbox=acting(run=self.only_for_runs(lambda _: Did(verdict=Verdict.LOST)))))
        assert lab.runs()[1].attempts == ()
        assert lab.direction().state is DirectionState.FAILED
        assert "the platform could not run an execution" in lab.direction().error
        assert lab.experiments()[0].state is ExperimentState.FAILED


class TestCache:
    def test_the_same_baseline_is_measured_once(self, lab: Laboratory) -> None:
        lab.submit()
        lab.go_on()
        before = len(lab.executions(kind=Kind.RUN))
        lab.submit()
        lab.go_on_to("propose")
        first, second = [run for run in lab.runs() if run.index == 0]
        assert len(lab.executions(kind=Kind.RUN)) == before
        assert (first.record, first.final_info) == (second.record, second.final_info)
        assert first.direction_id != second.direction_id
        assert "taken from the cache" in lab.told()

    @pytest.mark.parametrize(
        "changes",
        [{"profile": "cpu"}, {"seed": 1}, {"sandbox": "docker"}, {"tenant": "ten_01hz00000000000000000000aa"}],
    )
    def test_another_baseline_is_measured_for_itself(self, lab: Laboratory, changes: dict[str, Any]) -> None:
        lab.submit()
        lab.go_on_to("propose")
        lab.submit(**changes)
        lab.go_on(until=lambda: len(lab.steps("propose")) == 2)
        assert len([run for run in lab.executions(kind=Kind.RUN) if "--out_dir=run_0" in run.command]) == 2

    def test_another_secret_draws_other_data_for_which_it_is_measured_for_itself(self, lab: Laboratory) -> None:
        lab.submit()
        lab.go_on_to("propose")

        def drawn_anew(spec: Spec) -> Did:
            return Did(files={"data.txt": b"others"}) if spec.kind is Kind.PREPARE else act(spec)

        lab.sandbox.act = drawn_anew
        lab.submit()
        lab.go_on(until=lambda: len(lab.steps("propose")) == 2)
        first, second = [run for run in lab.runs() if run.index == 0]
        assert first.cache_key != second.cache_key
        assert first.record != second.record
        assert "taken from the cache" not in lab.told()

    @pytest.mark.parametrize(
        "other", [Device(processor="another"), Device()], ids=["another processor", "nobody knows which"]
    )
    def test_on_another_device_it_is_measured_for_itself(self, lab: Laboratory, other: Device) -> None:
        lab.submit()
        lab.go_on_to("propose")
        lab.device = other
        lab.submit()
        lab.go_on(until=lambda: len(lab.steps("propose")) == 2)
        assert len([run for run in lab.executions(kind=Kind.RUN) if "--out_dir=run_0" in run.command]) == 2
        assert "taken from the cache" not in lab.told()

    def test_what_nobody_knows_the_device_of_is_taken_by_nobody(self, lab: Laboratory) -> None:
        lab.device = Device()
        for _ in range(2):
            lab.submit()
            lab.go_on()
        assert "taken from the cache" not in lab.told()

    def test_what_another_worker_measured_is_not_taken_for_what_this_one_would(self, lab: Laboratory) -> None:
        lab.submit()
        lab.go_on_to("ran")
        here, lab.device = lab.device, Device(processor="another")
        (running,) = lab.executions(kind=Kind.RUN)
        lab.apply(Change(executions=(dataclasses.replace(running, outcome=with_device(running, lab.device)),)))
        lab.device = here
        lab.go_on()
        lab.submit()
        lab.go_on(until=lambda: len(lab.steps("propose")) == 2)
        assert "taken from the cache" not in lab.told()

    @pytest.mark.parametrize(
        ("before", "after", "is_taken"),
        [
            ("A, driver 1", "A, driver 1", True),
            ("A, driver 1", "A, driver 2", False),
            ("A, driver 1", "B, driver 1", False),
            ("A + B, driver 1", "A + B, driver 1", False),
            ("", "", False),
        ],
    )
    def test_a_profile_with_gpus_takes_what_was_measured_on_the_same_model_and_driver(
        self, make_lab: Callable[..., Laboratory], before: str, after: str, *, is_taken: bool
    ) -> None:
        lab = make_lab(
            files={**TINY, "template.toml": TINY["template.toml"] + "[profiles.gpu]\nseeds = [1]\ngpus = 1\n"}
        )
        lab.run = dataclasses.replace(lab.run, gpus=("0",))
        for gpu in (before, after):
            lab.device = Device(processor="a processor", gpu=gpu)
            lab.submit(profile="gpu")
            lab.go_on()
        assert ("taken from the cache" in lab.told()) is is_taken

    def test_a_profile_without_gpus_does_not_ask_which_there_are(self, lab: Laboratory) -> None:
        for gpu in ("A, driver 1", "B, driver 2"):
            lab.device = Device(processor="a processor", gpu=gpu)
            lab.submit()
            lab.go_on()
        assert "taken from the cache" in lab.told()


def with_device(execution: Execution, device: Device) -> Outcome:
    assert execution.outcome
    return dataclasses.replace(execution.outcome, device=device)
