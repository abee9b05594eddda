"""Held-out data that are the same for every seed: their own error enters the rule, or luck of the examples would."""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fumehood.artifacts.signing import key_id_of, open_envelope
from fumehood.domain.confirmation import ONE_DATASET
from fumehood.domain.execution import Kind, Spec, Verdict
from fumehood.domain.experiment import RunResult
from fumehood.errors import BadInputError
from fumehood.services import confirmation_report, confirming, held_out, verification
from fumehood.services.confirming import Measure
from fumehood.services.statistics import Scales
from tests.fakes.laboratory import CONFIRMING, Laboratory, act
from tests.fakes.model import ScriptedCoder
from tests.fakes.sandbox import Did, InstantSandbox


def archive(**arrays: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **{name: np.asarray(values) for name, values in arrays.items()})
    return buffer.getvalue()


def test_examples_are_read_in_the_order_of_the_seeds() -> None:
    data = archive(tales_3=[1.0, 3.0], tales_1=[5.0, 7.0])
    assert held_out.read(data, {"tales": (6.0, 2.0)}, (1, 3))["tales"].tolist() == [[5.0, 7.0], [1.0, 3.0]]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (archive(tales_1=[1.0, 3.0]), "has not the same examples"),
        (archive(tales_1=[1.0, 3.0], tales_2=[1.0, 2.0, 3.0]), "has not the same examples"),
        (archive(tales_1=[2.0], tales_2=[2.0]), "no two finite examples"),
        (archive(tales_1=[1.0, np.nan], tales_2=[1.0, 3.0]), "no two finite examples"),
        (archive(tales_1=[1.0, 3.0], tales_2=[1.0, 4.0]), "seed 2 have the mean 2.5, not 2.0"),
        (archive(tales_1=np.array([{}, {}], dtype=object), tales_2=[1.0, 3.0]), "has not the same examples"),
        (b"no archive", "has not the same examples"),
    ],
)
def test_examples_that_are_not_the_metrics_are_refused(data: bytes, said: str) -> None:
    with pytest.raises(BadInputError, match=said):
        held_out.read(data, {"tales": (2.0, 2.0)}, (1, 2))


def test_the_error_is_that_of_the_differences_over_all_looks() -> None:
    base = {"tales": np.array([[0.0, 0.0, 0.0], [0.0, 2.0, 0.0]])}
    looks = [{"tales": np.array([[1.0, 3.0, 2.0]])}, {"tales": np.array([[3.0, 3.0, 4.0]])}]
    found = held_out.errors(base, looks, "none")["tales"]
    assert found.size == 3
    assert found.tau == pytest.approx(np.std([2.0, 2.0, 3.0], ddof=1))
    with pytest.raises(BadInputError, match="another number of examples"):
        held_out.errors(base, [{"tales": np.ones((1, 4))}], "none")


def test_luck_of_the_examples_makes_no_discovery() -> None:
    """Where tau / (s sqrt(N)) is a half, a quarter of the ideas without effect pass by the seeds alone."""
    rule = dataclasses.replace(ONE_DATASET, ideas=1, q=0.1)
    measure, scale = Measure(direction="higher"), Scales({"tales": 1.0}, {})
    noise, examples, trials = np.random.default_rng(20), 60, 1000
    tau = 0.5 * examples**0.5
    called = {False: 0, True: 0}
    for _ in range(trials):
        shared = noise.normal(size=examples)
        # What the run does to each example averages to nothing over all that could have been held out.
        effect = noise.normal(scale=tau, size=examples)

        def drawn(seeds: int, of: Any) -> Any:
            return of + noise.normal(size=(seeds, 1)) + noise.normal(scale=0.1, size=(seeds, examples))

        base, run = drawn(rule.confirm_baseline, shared), drawn(rule.looks[0], shared + effect)
        cells = ({"tales": base.mean(axis=1).tolist()}, {"tales": run.mean(axis=1).tolist()})
        errors = held_out.errors({"tales": base}, [{"tales": run}], "none")
        for counts in called:
            told = errors if counts else None
            said = confirming.confirm(rule, measure, scale, *cells, look=1, discoveries=0, held_out=told)
            called[counts] += said.is_discovery
    # A look spends half of alpha, 0.05; three standard errors of a share of 1,000 beside it.
    assert called[True] / trials <= 0.05 + 3 * (0.05 * 0.95 / trials) ** 0.5
    assert called[False] / trials >= 0.15


def test_a_true_effect_is_found_beside_luck_of_the_examples() -> None:
    rule = dataclasses.replace(ONE_DATASET, ideas=1, q=0.1)
    noise, found = np.random.default_rng(21), 0
    for _ in range(200):
        base = noise.normal(size=(40, 1)) + noise.normal(size=400)
        run = base[:12] * 0 + base.mean(axis=0) + noise.normal(size=(12, 1)) + 2 + noise.normal(scale=2, size=400)
        errors = held_out.errors({"tales": base}, [{"tales": run}], "none")
        cells = ({"tales": base.mean(axis=1).tolist()}, {"tales": run.mean(axis=1).tolist()})
        said = confirming.confirm(
            rule,
            Measure(direction="higher"),
            Scales({"tales": 1.0}, {}),
            *cells,
            look=1,
            discoveries=0,
            held_out=errors,
        )
        found += said.is_discovery
    assert found > 190


# A whole direction.

FIXED = {
    **CONFIRMING,
    "template.toml": CONFIRMING["template.toml"].replace(
        'datasets = ["circle"]', 'datasets = ["circle"]\nheld_out = "fixed"', 1
    ),
}
SHORT: dict[str, Any] = {
    "screen_seeds": 3, "looks": (4, 8), "screen_baseline": 5, "confirm_baseline": 6, "q": 0.5, "ideas": 5,
}  # fmt: skip


def evaluates(spread: float, **other: Any) -> Callable[[Spec], Did]:
    """Return programs whose evaluator marks four examples, on which a difference is its own by so much."""

    def does(spec: Spec) -> Did:
        did = act(spec)
        if spec.kind is not Kind.EVALUATE:
            return did
        values = json.loads(did.files["metrics.json"])["circle"]["final_info_dict"]["error"]
        seeds = next(word for word in spec.command if word.startswith("--seeds=")).removeprefix("--seeds=").split(",")
        shape = 1 + spread * np.array([-1.0, 1.0, -1.0, 1.0])
        told = {f"circle_{seed}": value * shape for seed, value in zip(seeds, values, strict=True)}
        return Did(files=dict(did.files) | {"examples.npz": archive(**told)} | other)

    return does


OPENED: list[Laboratory] = []


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    while OPENED:
        OPENED.pop().artifacts.close()


def carried_out(folder: Path, does: Callable[[Spec], Did]) -> Laboratory:
    code = FIXED["experiment.py"].replace("SCALE = 1.0", "SCALE = -4.0")
    coder = ScriptedCoder({(1, 1): ({"experiment.py": code.encode()}, "RUN: Scale | it becomes smaller")})
    lab = Laboratory(folder, files=FIXED, coder=coder, sandbox=InstantSandbox(does))
    lab.write = dataclasses.replace(lab.write, confirm=SHORT)
    OPENED.append(lab)
    lab.submit(profile="confirming", runs=1)
    lab.go_on()
    return lab


def opener(lab: Laboratory) -> Any:
    key = lab.signer.public_key_bytes()
    return lambda data, kind: open_envelope(data, {key_id_of(key): key}, kind)


@pytest.mark.parametrize(("spread", "label"), [(0.01, "better"), (5.0, "not_comparable: undecided")])
def test_the_examples_decide_with_the_seeds_and_the_folder_tells_it(tmp_path: Path, spread: float, label: str) -> None:
    lab = carried_out(tmp_path, evaluates(spread))
    (experiment,) = lab.experiments()
    assert experiment.label == label, lab.told()
    plan, result = confirmation_report.read(lab.artifacts.get(experiment.products["confirmation.json"]))
    assert plan.held_out == "fixed"
    assert result is not None
    told = result["datasets"]["circle"]
    assert told["held_out"] == 4
    assert told["tau"] == pytest.approx(abs(told["difference"]) * spread * np.std([-1, 1, -1, 1], ddof=1))
    out = lab.export(tmp_path / "out")
    assert verification.verify_folder(verification.open_folder(out), opener(lab)).problems == []
    inside = verification.open_folder(out / "experiments" / experiment.name)
    other = archive(**{f"circle_{seed}": [1.0, 2.0] for seed in plan.seeds[:4]})
    changed = dataclasses.replace(
        inside, read=lambda path: other if path == "confirm_1/examples.npz" else inside.read(path)
    )
    report = verification.Report()
    verification.experiment(changed, opener(lab), report, "")
    assert any("confirm_1/examples.npz is not what the record" in problem for problem in report.problems)
    assert any("confirmation.json" in problem for problem in report.problems)


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"examples.npz": archive(circle_1=[1.0, 2.0])}, "has not the same examples"),
        ({"examples.npz": None}, "wrote no examples.npz"),
    ],
)
def test_an_evaluator_without_its_examples_gives_no_result(tmp_path: Path, other: dict[str, Any], said: str) -> None:
    def does(spec: Spec) -> Did:
        did = evaluates(0.1)(spec)
        files = {path: other.get(path, data) for path, data in did.files.items()}
        return dataclasses.replace(did, files={path: data for path, data in files.items() if data is not None})

    lab = carried_out(tmp_path, does)
    (base,) = lab.runs()
    assert base.result is RunResult.PENDING
    assert said in lab.direction().error


def test_seeds_that_are_run_alone_bring_their_examples(tmp_path: Path) -> None:
    told = evaluates(0.01)

    def breaks(spec: Spec) -> Did:
        is_look = spec.kind is Kind.RUN and any(word.startswith("--out_dir=confirm_") for word in spec.command)
        if is_look and "," in spec.environment["FUMEHOOD_SEEDS"]:
            return Did(verdict=Verdict.FAILED, output="RuntimeError: not all at once")
        return told(spec)

    whole, alone = (carried_out(tmp_path / name, does) for name, does in (("whole", told), ("alone", breaks)))
    results = []
    for lab in (whole, alone):
        (experiment,) = lab.experiments()
        _, result = confirmation_report.read(lab.artifacts.get(experiment.products["confirmation.json"]))
        assert result is not None
        results.append(result)
    assert results[1]["alone"] == {"confirm_0": [], "confirm_1": []}
    assert [result["label"] for result in results] == ["better", "better"]
    for result in results:
        entry = result["datasets"]["circle"]
        assert entry["tau"] == pytest.approx(abs(entry["difference"]) * 0.01 * np.std([-1, 1, -1, 1], ddof=1))
        assert entry["held_out"] == 4
    out = alone.export(tmp_path / "out")
    assert verification.verify_folder(verification.open_folder(out), opener(alone)).problems == []
