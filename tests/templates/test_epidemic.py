"""The epidemic template: its outbreaks, its judge, its refusals, and its smallest fits, together and alone."""

from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import numpy as np
import pytest

from fumehood.artifacts.memory import MemoryArtifacts
from fumehood.services import templates
from tests.fakes.small_template import BLOCK, SmallTemplate, arrays, module, program

TEMPLATE = Path(__file__).parents[2] / "templates" / "epidemic"
DATASETS = ("steady", "measures", "seasonal")
OUTBREAKS, AHEAD = 6, 4
SMALL = ("--starts=1", "--evaluations=12")
FAILS = "shared_priors_1_1"
"""The edit that is wrong once."""


SMALLEST = SmallTemplate(folder=TEMPLATE, datasets=DATASETS, small=SMALL, drawn="outbreaks", count=OUTBREAKS)
prepare, draw, fitted = SMALLEST.prepare, SMALLEST.draw, SMALLEST.fitted
asked_model, evaluate, judged = SMALLEST.asked_model, SMALLEST.evaluate, SMALLEST.judged


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, warm_python: Path) -> Path:
    """A folder with small data of the screen arm: `train/`, `inputs/` and `answers/`."""
    return draw(warm_python, tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, warm_python: Path, data: Path) -> Path:
    """A finished run of seeds 1 and 2."""
    return fitted(warm_python, data, tmp_path_factory.mktemp("work") / "run_0")


def mean_score(metrics: dict[str, dict[str, list]]) -> float:
    return float(np.mean([np.mean(entry["log_score"]) for entry in metrics.values()]))


# Data.


def test_it_keeps_the_contract() -> None:
    artifacts = MemoryArtifacts()
    try:
        assert templates.check(templates.snapshot(TEMPLATE, artifacts), artifacts, "epidemic") == ()
    finally:
        artifacts.close()


def test_the_same_key_and_seeds_give_the_same_bytes(lab_python: Path, data: Path, tmp_path: Path) -> None:
    again = draw(lab_python, tmp_path)
    for part in ("train", "inputs", "answers"):
        names = {path.name for path in (data / part).iterdir()}
        assert {path.name for path in (again / part).iterdir()} == names
        for name in names:
            assert (again / part / name).read_bytes() == (data / part / name).read_bytes()


def test_another_key_and_another_arm_are_other_diseases(warm_python: Path, data: Path, tmp_path: Path) -> None:
    others = [draw(warm_python, tmp_path / "key", bytes(32)), draw(warm_python, tmp_path / "arm", arm="confirm")]
    for dataset in DATASETS:
        ours = arrays(data / "train" / f"{dataset}.npz")
        for other in others:
            theirs = arrays(other / "train" / f"{dataset}.npz")
            assert theirs["latent_days"] != ours["latent_days"]
            assert theirs["infectious_days"] != ours["infectious_days"]
            assert not np.array_equal(theirs["cases_1"], ours["cases_1"])


def test_a_seed_does_not_depend_on_the_others_and_seeds_differ(warm_python: Path, data: Path, tmp_path: Path) -> None:
    alone = draw(warm_python, tmp_path, seeds="2")
    for dataset in DATASETS:
        for part in ("train", "answers"):
            ours, listed = (arrays(folder / part / f"{dataset}.npz") for folder in (alone, data))
            assert np.array_equal(ours["cases_2"], listed["cases_2"])
            assert not np.array_equal(listed["cases_1"], listed["cases_2"])


def test_a_run_is_given_no_week_that_it_must_forecast(warm_python: Path, data: Path) -> None:
    drawn = module(TEMPLATE / "prepare.py", "epidemic_prepare")
    for dataset in DATASETS:
        train, held = (arrays(data / part / f"{dataset}.npz") for part in ("train", "answers"))
        assert set(held) == {"cases_1", "cases_2"}
        for seed in (1, 2):
            asked = np.load(data / "inputs" / f"{dataset}_{seed}.npy")
            assert asked.shape == (OUTBREAKS * AHEAD, 2)
            observed, cases = train[f"observed_{seed}"], train[f"cases_{seed}"]
            assert (asked[:, 1] >= observed[asked[:, 0]]).all()
            assert (cases[asked[:, 0], asked[:, 1]] == -1).all()
            assert ((cases >= 0).sum(axis=1) == observed).all()
            _, whole = drawn.draw((data / "key").read_bytes(), "screen", dataset, seed, OUTBREAKS)
            assert np.array_equal(whole.cases[asked[:, 0], asked[:, 1]], held[f"cases_{seed}"])


def test_nobody_is_made_or_lost_in_an_outbreak() -> None:
    drawn = module(TEMPLATE / "prepare.py", "epidemic_prepare")
    rng = np.random.default_rng(0)
    disease = drawn.Disease(3.0, 5.0, 2.0, 0.999999, 1e9)  # every onset is reported, without noise but Poisson's
    for dataset in DATASETS:
        outbreaks = drawn.draw_outbreaks(dataset, disease, 40, rng)
        assert (outbreaks.cases.sum(axis=1) < 1.05 * outbreaks.population).all()
        assert (outbreaks.cases.sum(axis=1) > 20).all()


@pytest.mark.parametrize("key", [b"", bytes(31), bytes(33)])
def test_a_key_of_another_length_is_bad_usage(warm_python: Path, tmp_path: Path, key: bytes) -> None:
    (tmp_path / "key").write_bytes(key)
    done = prepare(warm_python, tmp_path / "key", tmp_path / "out", part="train")
    assert done.returncode == 2
    assert "32 bytes" in done.stderr
    assert not (tmp_path / "out").exists()


# The judge.


def write_forecasts(data: Path, out: Path, means: object, size: float, seeds: tuple[int, ...] = (1, 2)) -> Path:
    """Write forecasts with the means that a function of data set, seed and asked weeks gives."""
    out.mkdir(exist_ok=True)
    for dataset in DATASETS:
        for seed in seeds:
            asked = np.load(data / "inputs" / f"{dataset}_{seed}.npy")
            mean = np.maximum(means(dataset, seed, asked), 0.1)  # type: ignore[operator]
            told = np.stack([mean, np.full(len(asked), size)], axis=1).astype(np.float32)
            np.save(out / f"predictions_{dataset}_{seed}.npy", told)
    return out


def truth(data: Path) -> object:
    return lambda dataset, seed, _: arrays(data / "answers" / f"{dataset}.npz")[f"cases_{seed}"].astype(float)


def test_the_score_is_the_log_density_of_the_counts_on_a_logarithmic_scale(
    warm_python: Path, data: Path, tmp_path: Path
) -> None:
    outputs = write_forecasts(data, tmp_path / "outputs", truth(data), 10.0)
    metrics = evaluate(warm_python, data, outputs, tmp_path / "out")
    for dataset in DATASETS:
        for place, seed in enumerate((1, 2)):
            cases = arrays(data / "answers" / f"{dataset}.npz")[f"cases_{seed}"].tolist()
            nats = []
            for count in cases:
                mean = float(np.float32(max(count, 0.1)))
                log_p = math.lgamma(count + 10) - math.lgamma(10) - math.lgamma(count + 1)
                log_p += 10 * math.log(10 / (10 + mean)) + count * math.log(mean / (10 + mean))
                nats.append(-log_p - math.log1p(count))
            assert metrics[dataset]["log_score"][place] == pytest.approx(np.mean(nats), abs=1e-6)
            assert metrics[dataset]["log_error"][place] < 0.1


def test_who_is_surer_or_vaguer_than_right_loses(warm_python: Path, data: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    noisy = {}
    for dataset in DATASETS:
        for seed in (1, 2):
            cases = arrays(data / "answers" / f"{dataset}.npz")[f"cases_{seed}"]
            noisy[dataset, seed] = cases * rng.gamma(5.0, 1 / 5.0, len(cases))
    scores = []
    for size in (1.0, 5.0, 500.0):
        outputs = write_forecasts(data, tmp_path / f"{size}", lambda dataset, seed, _: noisy[dataset, seed], size)
        scores.append(mean_score(evaluate(warm_python, data, outputs, tmp_path / f"out_{size}")))
    assert scores[1] < scores[0]
    assert scores[1] < scores[2]


@pytest.mark.parametrize(
    ("fault", "word"),
    [
        ("missing", "is missing"),
        ("nan", "not finite"),
        ("zero", "above zero"),
        ("negative", "above zero"),
        ("short", "must hold floats"),
        ("whole", "must hold floats"),
        ("pickle", "not a plain"),
    ],
)
def test_forecasts_that_cannot_be_judged_are_refused(
    warm_python: Path, data: Path, tmp_path: Path, fault: str, word: str
) -> None:
    outputs = write_forecasts(data, tmp_path / "outputs", truth(data), 10.0)
    path = outputs / "predictions_measures_2.npy"
    told = np.load(path)
    if fault == "nan":
        told[0, 0] = np.nan
    if fault in {"zero", "negative"}:
        told[3, 1] = 0.0 if fault == "zero" else -1.0
    if fault == "short":
        told = told[:-1]
    if fault == "whole":
        told = told.astype(np.int64)
    path.unlink()
    if fault == "pickle":
        np.save(path, np.array([{}], dtype=object), allow_pickle=True)
    elif fault != "missing":
        np.save(path, told)
    done = judged(warm_python, data, outputs, tmp_path / "out")
    assert done.returncode == 1
    assert done.stderr.startswith(path.name)
    assert word in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "out" / "metrics.json").exists()


def test_absurd_numbers_are_bounded_and_cost_the_most(warm_python: Path, data: Path, tmp_path: Path) -> None:
    for mean, size in ((1e-30, 1e30), (1e38, 1e38), (1e38, 1e-30)):
        outputs = write_forecasts(data, tmp_path / "outputs", lambda *_, mean=mean: np.full(24, mean), size)
        metrics = evaluate(warm_python, data, outputs, tmp_path / "out")
        assert mean_score(metrics) > 8
        for entry in metrics.values():
            assert max(entry["log_score"]) <= 15
            assert all(math.isfinite(one) for values in entry.values() for one in values)


# Cheats, on as many outbreaks as tell them from luck.


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory, warm_python: Path) -> tuple[Path, float]:
    """Data of 24 outbreaks, and the baseline's score of them."""
    folder = draw(warm_python, tmp_path_factory.mktemp("many"), count=24)
    run = fitted(warm_python, folder, folder / "run_0", "--evaluations=30")
    answers = asked_model(warm_python, folder, run, folder / "answers_of_run")
    return folder, mean_score(evaluate(warm_python, folder, answers, folder / "out"))


@pytest.mark.slow
def test_last_weeks_returned_as_forecasts_and_another_installations_outbreaks_are_no_answer(
    warm_python: Path, many: tuple[Path, float], tmp_path: Path
) -> None:
    folder, baseline = many

    def last_week(dataset: str, seed: int, asked: np.ndarray) -> np.ndarray:
        train = arrays(folder / "train" / f"{dataset}.npz")
        places = asked[:, 0]
        return train[f"cases_{seed}"][places, train[f"observed_{seed}"][places] - 1].astype(float)

    drawn = module(TEMPLATE / "prepare.py", "epidemic_prepare")

    def generator_by_heart(dataset: str, seed: int, asked: np.ndarray) -> np.ndarray:
        _, outbreaks = drawn.draw(bytes(32), "screen", dataset, seed, 24)
        return outbreaks.cases[asked[:, 0], asked[:, 1]].astype(float)

    scores = {}
    for name, means in (("last week", last_week), ("generator", generator_by_heart)):
        outputs = write_forecasts(folder, tmp_path / name, means, 40.0)
        scores[name] = mean_score(evaluate(warm_python, folder, outputs, tmp_path / f"out {name}"))
    assert min(scores.values()) > baseline, (scores, baseline)


# The playbook.


def edits_of(reply: str) -> list[re.Match[str]]:
    return list(BLOCK.finditer(reply))


def edited() -> dict[str, dict[str, str]]:
    """The editable files after every attempt, and after what is mended of it, under `idea_run_attempt`."""
    playbook = tomllib.loads((TEMPLATE / "offline.toml").read_text())
    editable = tomllib.loads((TEMPLATE / "template.toml").read_text())["editable"]
    left = {}
    for idea in playbook["ideas"]:
        files = {name: (TEMPLATE / name).read_text() for name in editable}
        for number, planned in enumerate(idea["runs"], start=1):
            for turn, one in enumerate(planned["attempts"], start=1):
                for reply in filter(None, (one["reply"], one.get("mended"))):
                    assert edits_of(reply)
                    for edit in edits_of(reply):
                        assert files[edit["file"]].count(edit["old"]) == 1, f"{idea['name']}: {edit['old']}"
                        files[edit["file"]] = files[edit["file"]].replace(edit["old"], edit["new"])
                left[f"{idea['name']}_{number}_{turn}"] = dict(files)
        for edit in edits_of(idea["plot"]["reply"]):
            assert files[edit["file"]].count(edit["old"]) == 1
            files[edit["file"]] = files[edit["file"]].replace(edit["old"], edit["new"])
        for number, planned in enumerate(idea["runs"], start=1):
            assert f'"run_{number}": "{planned["title"]}"' in files["plot.py"]
        for name, text in files.items():
            compile(text, name, "exec")
    return left


def test_every_offline_edit_applies_exactly_once_in_order() -> None:
    playbook = tomllib.loads((TEMPLATE / "offline.toml").read_text())
    allowed = set(tomllib.loads((TEMPLATE / "template.toml").read_text())["comparison"]["may_change"])
    assert len({idea["name"] for idea in playbook["ideas"]}) == len(playbook["ideas"]) >= 5
    assert {idea["kind"] for idea in playbook["ideas"]} == {"improvement", "analysis"}
    for idea in playbook["ideas"]:
        assert re.fullmatch(r"[a-z][a-z0-9_]{0,39}", idea["name"])
        assert set(idea["changes"]) <= allowed
        assert r"\begin{equation}" in idea["method"]
    left = edited()
    assert len({files["experiment.py"] for files in left.values()}) == len(left)


@pytest.mark.slow
def test_one_edit_is_wrong_once_one_is_worse_and_others_are_a_real_gain(
    warm_python: Path, many: tuple[Path, float], tmp_path: Path
) -> None:
    folder, baseline = many
    programs = edited()
    wrong = tmp_path / "wrong"
    wrong.mkdir()
    (wrong / "experiment.py").write_text(programs[FAILS]["experiment.py"])
    told = {"FUMEHOOD_DATA": str(folder / "train"), "FUMEHOOD_SEEDS": "1,2"}
    done = program(warm_python, wrong / "experiment.py", f"--out_dir={tmp_path / 'run_wrong'}", *SMALL, **told)
    assert done.returncode == 1
    assert "Error" in done.stderr

    scores = {}
    for name in ("shared_priors_1_2", "widening_forecasts_2_1", "stabilised_residuals_1_1"):
        code = tmp_path / name
        code.mkdir()
        for file in ("experiment.py", "serve.py"):
            (code / file).write_text(programs[name][file])
        run = fitted(warm_python, folder, tmp_path / f"run_{name}", "--evaluations=30", code=code)
        answers = asked_model(warm_python, folder, run, tmp_path / f"answers_{name}", code)
        scores[name] = mean_score(evaluate(warm_python, folder, answers, tmp_path / f"out_{name}"))
    assert scores["shared_priors_1_2"] < baseline - 0.3, (scores, baseline)
    assert scores["widening_forecasts_2_1"] < baseline - 0.5
    assert scores["stabilised_residuals_1_1"] > baseline + 0.2


@pytest.mark.slow
def test_every_edit_runs_and_leaves_a_seed_alone_what_it_is_beside_others(
    warm_python: Path, data: Path, tmp_path: Path
) -> None:
    for name, files in edited().items():
        if name == FAILS:
            continue
        code = tmp_path / name
        code.mkdir()
        for file in ("experiment.py", "serve.py"):
            (code / file).write_text(files[file])
        together = fitted(warm_python, data, code / "together", code=code)
        alone = fitted(warm_python, data, code / "alone", code=code, seeds="2")
        for dataset in DATASETS:
            whole, own = (arrays(run / f"model_{dataset}_2.npz") for run in (together, alone))
            assert all(np.array_equal(whole[part], own[part]) for part in whole), f"{name}: {dataset}"
        asked_model(warm_python, data, alone, code / "answers", code, seeds="2")


# The experiment itself.


def fit_errors(run: Path) -> dict[str, list[float]]:
    info = json.loads((run / "final_info.json").read_text())
    return {dataset: info[dataset]["final_info_dict"]["fit_error"] for dataset in DATASETS}


def test_the_same_seeds_twice_give_the_same_numbers_and_seeds_differ(
    lab_python: Path, data: Path, run: Path, tmp_path: Path
) -> None:
    again = fitted(lab_python, data, tmp_path / "run_0")
    assert fit_errors(again) == fit_errors(run)
    for dataset in DATASETS:
        models = [arrays(run / f"model_{dataset}_{seed}.npz")["theta"] for seed in (1, 2)]
        assert not np.array_equal(*models)
        assert np.array_equal(models[1], arrays(again / f"model_{dataset}_2.npz")["theta"])


def test_a_run_that_was_broken_off_is_taken_up_with_the_same_arguments_only_and_ends_the_same(
    warm_python: Path, data: Path, run: Path, tmp_path: Path
) -> None:
    asked = (warm_python, TEMPLATE / "experiment.py", f"--out_dir={tmp_path / 'run_0'}", *SMALL)
    shutil.copytree(data / "train", tmp_path / "some", ignore=shutil.ignore_patterns("seasonal*"))
    some, every = ({"FUMEHOOD_DATA": str(one), "FUMEHOOD_SEEDS": "1,2"} for one in (tmp_path / "some", data / "train"))
    assert program(*asked, **some).returncode == 1
    for words, seeds in ((("--evaluations=11",), "1,2"), ((), "1,3")):
        refused = program(*asked, *words, **every | {"FUMEHOOD_SEEDS": seeds})
        assert "was written with other arguments or seeds" in refused.stderr
        assert not (tmp_path / "run_0" / "final_info.json").exists()
    done = program(*asked, **every)
    assert done.returncode == 0, done.stderr
    assert "steady seed 1 is there" in done.stdout
    assert "seasonal seed 1: 6 outbreaks" in done.stdout
    assert fit_errors(tmp_path / "run_0") == fit_errors(run)
    assert {path.name for path in (tmp_path / "run_0").iterdir()} == {path.name for path in run.iterdir()}
    times = json.loads((tmp_path / "run_0" / "final_info.json").read_text())["steady"]["means"]["training_time"]
    assert times > 0  # of the fits that were there already, too
    assert program(*asked, **every).stdout.strip() == f"{tmp_path / 'run_0'} is finished"


def test_a_curve_that_is_the_models_own_is_found_again(warm_python: Path, tmp_path: Path) -> None:
    (tmp_path / "find.py").write_text(
        f"import sys; sys.path.insert(0, {str(TEMPLATE)!r})\n"
        "import numpy as np, experiment as e\n"
        "true = np.array([np.log(2.2), np.log(120.0), -0.8])\n"
        "blank = e.Outbreak(1e5, 3.0, 5.0, np.empty(0))\n"
        "cases = e.reported_cases(true, 16, blank).round()\n"
        "found = e.fit(e.Outbreak(1e5, 3.0, 5.0, cases), e.Config(2, 60), np.random.default_rng(1))\n"
        "assert np.allclose(found.theta, true, atol=0.02), found.theta\n"
        "mean, size = e.forecast(found.theta, found.size, 16, 18, blank)\n"
        "assert abs(mean / e.reported_cases(true, 19, blank)[18] - 1) < 0.02\n"
        "assert size == e.LARGEST_SIZE\n"
    )
    done = program(warm_python, tmp_path / "find.py")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("argument", ["--no_such_thing=1", "--starts=0", "--evaluations=-3"])
def test_a_bad_argument_exits_2(warm_python: Path, tmp_path: Path, argument: str) -> None:
    done = program(warm_python, TEMPLATE / "experiment.py", f"--out_dir={tmp_path / 'run_0'}", argument)
    assert done.returncode == 2
    assert not (tmp_path / "run_0").exists()


def test_a_run_leaves_the_promised_files_counts_and_figures(
    warm_python: Path, data: Path, run: Path, tmp_path: Path
) -> None:
    counts = json.loads((run / "parameters.json").read_text())
    assert counts == {"parameters": OUTBREAKS * 4, "updates": 12}
    answers = asked_model(warm_python, data, run, tmp_path / "answers")
    assert json.loads((answers / "counted.json").read_text())["parameters"] == OUTBREAKS * 4
    evaluate(warm_python, data, answers, tmp_path)
    for number in (0, 1):
        copy = tmp_path / f"run_{number}"
        shutil.copytree(run, copy)
        (copy / "final_info.json").write_bytes((tmp_path / "metrics.json").read_bytes())
    shutil.copy(TEMPLATE / "plot.py", tmp_path)
    environment = {"PATH": "/usr/bin:/bin", "MPLCONFIGDIR": str(tmp_path)}
    command = [str(warm_python), "-B", "plot.py"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    for name in ("forecasts", "reproduction_numbers", "log_score_by_run"):
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
