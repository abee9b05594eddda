"""The signed record of a run: what it is about, whose numbers it holds, and that a change of it shows."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any

import pytest

from fumehood.artifacts.signing import key_id_of, open_envelope
from fumehood.domain.execution import Kind, Spec, Verdict
from fumehood.domain.experiment import Run
from fumehood.errors import TamperedError
from fumehood.services import records
from tests.fakes.laboratory import PLAIN, TINY, Laboratory, act
from tests.fakes.sandbox import Did, InstantSandbox


def trusted(lab: Laboratory) -> dict[str, bytes]:
    key = lab.signer.public_key_bytes()
    return {key_id_of(key): key}


def statement(lab: Laboratory, run: Run) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(open_envelope(lab.artifacts.get(run.record), trusted(lab), records.PAYLOAD_TYPE))
    return told


@pytest.fixture
def measured(lab: Laboratory) -> Laboratory:
    lab.submit(runs=1)
    lab.go_on_to("plot")
    return lab


def test_it_is_a_statement_about_what_the_run_left(measured: Laboratory) -> None:
    for run in measured.runs():
        told = statement(measured, run)
        assert (told["_type"], told["predicateType"]) == (records.STATEMENT, records.PREDICATE)
        subjects = {one["name"]: one["digest"]["sha256"] for one in told["subject"]}
        assert subjects == {
            f"{run.folder}/samples.json": run.outputs["samples.json"],
            f"{run.folder}/final_info.json": run.final_info,
            f"{run.folder}/self_reported.json": run.self_reported,
            f"{run.folder}/log.txt": run.log,
        }
        assert all(hashlib.sha256(measured.artifacts.get(sha)).hexdigest() == sha for sha in subjects.values())


def test_it_says_what_was_run_on_what_and_within_which_limits(measured: Laboratory) -> None:
    baseline, run = (statement(measured, one)["predicate"] for one in measured.runs())
    assert (baseline["run"]["kind"], run["run"]["kind"]) == ("baseline", "run")
    assert run["run"]["title"] == "Scale 1"
    assert (
        run["code"]["experiment.py"]
        == hashlib.sha256(TINY["experiment.py"].replace("SCALE = 1.0", "SCALE = 1.5").encode()).hexdigest()
    )
    assert run["evaluator"] == hashlib.sha256(TINY["evaluate.py"].encode()).hexdigest()
    assert (run["device"], run["processor"], run["gpu"]) == ("cpu", "a processor", "")
    assert (run["seeds"], run["image"], run["isolation"]) == ([1, 2], "sha256:instant", {"S1": "held"})
    assert (run["verdicts"], set(run["limits"])) == ({"run": "succeeded", "evaluate": "succeeded"}, {"run", "evaluate"})
    assert set(run["data"]) == {"train", "answers"}
    assert run["data"] == baseline["data"]


def test_each_number_says_who_made_it(measured: Laboratory) -> None:
    metrics = statement(measured, measured.runs()[1])["predicate"]["metrics"]
    assert (metrics["error"]["source"], metrics["loss"]["source"]) == ("evaluator", "self")
    assert (metrics["error"]["primary"], metrics["error"]["direction"]) == (True, "lower")
    assert metrics["error"]["datasets"]["circle"]["seeds"] == [1.75, 2.0]
    assert (metrics["error"]["mean"], metrics["error"]["stderr"]) == (1.875, 0.125)


def test_the_evaluators_number_replaces_a_better_one_of_the_same_name(make_lab: Callable[..., Laboratory]) -> None:
    def boasting(spec: Any) -> Did | None:
        did = act(spec)
        if spec.kind == "run":
            flattering = b'{"circle": {"means": {"error": 0.0}}}'
            return Did(files={**did.files, "run_0/final_info.json": flattering})
        return did

    lab = make_lab(sandbox=InstantSandbox(boasting))
    lab.submit()
    lab.go_on_to("propose")
    run = lab.runs()[0]
    assert lab.get(run.final_info)["circle"]["means"] == {"error": 1.375}
    assert lab.get(run.self_reported)["circle"]["means"] == {"error": 0.0}
    assert statement(lab, run)["predicate"]["metrics"]["error"]["source"] == "evaluator"


def test_without_an_evaluator_every_number_is_self_reported(make_lab: Callable[..., Laboratory]) -> None:
    lab = make_lab(files=PLAIN)
    lab.submit()
    lab.go_on_to("propose")
    told = statement(lab, lab.runs()[0])["predicate"]
    assert {entry["source"] for entry in told["metrics"].values()} == {"self"}
    assert (told["evaluator"], told["seeds"]) == (None, "uncontrolled")


@pytest.mark.parametrize(
    ("data", "counts"),
    [
        (
            b'{"parameters": 12, "updates": 3.5, "samples_seen": 0}',
            {"parameters": 12, "updates": 3.5, "samples_seen": 0},
        ),
        (b'{"parameters": true, "updates": "x", "samples_seen": -1}', {}),
        (b'{"parameters": NaN, "updates": Infinity, "samples_seen": 1e30}', {}),
        (b"[1]", {}),
        (b"[" * 50_000, {}),
        (b"not json", {}),
    ],
)
def test_what_a_run_says_of_its_size_is_kept_when_it_can_be_a_count(
    make_lab: Callable[..., Laboratory], data: bytes, counts: dict[str, float]
) -> None:
    def counting(spec: Any) -> Did | None:
        did = act(spec)
        return Did(files={**did.files, "run_0/parameters.json": data}) if spec.kind == "run" else did

    lab = make_lab(sandbox=InstantSandbox(counting))
    lab.submit()
    lab.go_on_to("propose")
    told = statement(lab, lab.runs()[0])["predicate"]["counts"]
    assert told == {"parameters": None, "updates": None, "samples_seen": None, "flops_per_update": None, **counts}


def test_a_changed_number_does_not_open(measured: Laboratory) -> None:
    envelope = json.loads(measured.artifacts.get(measured.runs()[1].record))
    changed = {**envelope, "payload": envelope["payload"][:-8] + "AAAA" + envelope["payload"][-4:]}
    with pytest.raises(TamperedError, match="signature does not hold"):
        open_envelope(json.dumps(changed).encode(), trusted(measured), records.PAYLOAD_TYPE)
    with pytest.raises(TamperedError, match="signed by unknown key"):
        open_envelope(json.dumps(envelope).encode(), {}, records.PAYLOAD_TYPE)


def test_each_reading_of_the_held_out_data_counts_also_where_nothing_came_of_it(
    make_lab: Callable[..., Laboratory],
) -> None:
    seen: list[str] = []

    def does(spec: Spec) -> Did:
        if spec.kind is not Kind.EVALUATE:
            return act(spec)
        seen.append(spec.name)
        return Did(verdict=Verdict.FAILED, output="wrong shape") if len(seen) in {2, 3} else act(spec)

    lab = make_lab(sandbox=InstantSandbox(does))
    lab.submit(runs=2)
    lab.go_on_to("plot")
    opened = [statement(lab, run)["predicate"]["opened"] for run in lab.runs()]
    assert opened == [{"screen": 0, "confirm": 0}, {"screen": 3, "confirm": 0}, {"screen": 4, "confirm": 0}]


def test_a_text_that_is_scored_by_the_character_is_read_where_the_model_is_asked(
    make_lab: Callable[..., Laboratory],
) -> None:
    asked: list[str] = []

    def does(spec: Spec) -> Did:
        if spec.kind is not Kind.QUERY:
            return act(spec)
        asked.append(spec.name)
        fails = len(asked) == 2
        return Did(verdict=Verdict.FAILED) if fails else Did(files={"answers/samples.json": b"[7.0, 9.0]"})

    toml = TINY["template.toml"] + '\n[query]\nkind = "characters"\nblock = 16\nstreams = 4\ntolerance = 0.01\n'
    lab = make_lab(files={**TINY, "serve.py": "x = 1\n", "template.toml": toml}, sandbox=InstantSandbox(does))
    lab.submit(runs=1)
    lab.go_on_to("plot")
    assert statement(lab, lab.runs()[1])["predicate"]["opened"] == {"screen": 2, "confirm": 0}
