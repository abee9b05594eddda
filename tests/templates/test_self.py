"""The template on our own rule for duplicate ideas: the rule, its pairs, its judge, its refusals, and its runs."""

from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
import tomllib
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from fumehood.artifacts.memory import MemoryArtifacts
from fumehood.domain.idea import Idea, Score
from fumehood.domain.ids import DirectionId, IdeaId
from fumehood.services import ideas, templates
from tests.fakes.small_template import BLOCK, SmallTemplate, arrays, module, program

TEMPLATE = Path(__file__).parents[2] / "templates" / "self"
DATASETS = ("reworded", "same_subject", "long_boilerplate")
PAIRS = 24
SMALL = ("--steps=8",)
FAILS = "where_the_threshold_lies_1_1"
"""The edit that is wrong once."""


SMALLEST = SmallTemplate(folder=TEMPLATE, datasets=DATASETS, small=SMALL, drawn="pairs", count=PAIRS)
prepare, draw, fitted = SMALLEST.prepare, SMALLEST.draw, SMALLEST.fitted
asked_model, evaluate, judged = SMALLEST.asked_model, SMALLEST.evaluate, SMALLEST.judged


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, lab_python: Path) -> Path:
    """A folder with small data of the screen arm: `train/`, `inputs/` and `answers/`."""
    return draw(lab_python, tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, lab_python: Path, data: Path) -> Path:
    """A finished run of seeds 1 and 2."""
    return fitted(lab_python, data, tmp_path_factory.mktemp("work") / "run_0")


def mean_loss(metrics: dict[str, dict[str, list]]) -> float:
    return float(np.mean([np.mean(entry["log_loss"]) for entry in metrics.values()]))


# The rule and the data.


def test_it_keeps_the_contract() -> None:
    artifacts = MemoryArtifacts()
    try:
        files = templates.snapshot(TEMPLATE, artifacts)
        assert templates.check(files, artifacts, "self") == ()
        # What plans are written from is the answer to which phrases say the same: it never lies beside an experiment.
        assert set(templates.workspace(files)) == {"experiment.py", "plot.py", "serve.py"}
    finally:
        artifacts.close()


def plan(name: str, title: str, experiment: str) -> Idea:
    score = Score(value=5, reason="none")
    return Idea(
        id=IdeaId(name),
        direction_id=DirectionId("direction"),
        index=0,
        name=name,
        title=title,
        experiment=experiment,
        interestingness=score,
        feasibility=score,
        novelty_score=score,
        scored_by="person",
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
    )


def shipped_plans() -> list[tuple[str, str]]:
    """Title and plan of every idea in every shipped playbook."""
    books = [tomllib.loads(path.read_text()) for path in sorted(TEMPLATE.parent.glob("*/offline.toml"))]
    return [(idea["title"], idea["experiment"]) for book in books for idea in book["ideas"]]


def test_its_rule_is_the_platforms_own() -> None:
    rule = module(TEMPLATE / "experiment.py", "self_experiment")
    assert rule.NEAR == ideas.NEAR
    drawn = module(TEMPLATE / "prepare.py", "self_prepare")
    written = drawn.draw(bytes(32), "screen", "reworded", 1, "train", 30, "plain")[0]
    shipped = shipped_plans()
    assert len(shipped) >= 20
    plans = shipped + [tuple(text.split(". ", 1)) for pair in written for text in pair]
    texts = [f"{title} {experiment}" for title, experiment in plans]
    for text in (*texts, "", "a of the THIS Overfitting 1000 0.5 caf\u00e9 x_train"):
        assert rule.content_words(text) == ideas.content_words(text)
    weights = rule.weigh([(text, text) for text in texts])
    for (title, experiment), text in zip(plans[::3], texts[::3], strict=True):
        for (other, its_experiment), its_text in zip(plans[::7], texts[::7], strict=True):
            found = ideas.nearest(plan("new", title, experiment), [plan("old", other, its_experiment)])
            assert found is not None
            ours = rule.overlaps_of([(text, its_text)], weights)[0]
            assert ours == pytest.approx(found.overlap, abs=0.0005001)
            assert (ours >= rule.NEAR) == (found.overlap >= ideas.NEAR) or abs(ours - rule.NEAR) < 0.0005
    assert ideas.nearest(plan("new", "A title", "of a plan"), []) is None


def test_the_platform_and_the_baseline_refuse_the_same_pairs(lab_python: Path, data: Path, run: Path) -> None:
    told = asked_model(lab_python, data, run, run.parent / "answers_to_refuse")
    experiment = module(TEMPLATE / "experiment.py", "self_experiment_refusals")
    refused = 0
    for dataset in DATASETS:
        said = np.load(told / f"predictions_{dataset}_1.npy")
        pairs = experiment.decode(np.load(data / "inputs" / f"{dataset}_1.npy"))
        for one, (first, second) in zip(said, pairs, strict=True):
            found = ideas.nearest(plan("new", first, ""), [plan("old", second, "")])
            assert found is not None
            if abs(found.overlap - ideas.NEAR) > 0.001:  # the platform rounds, and a half may be either
                assert (one >= 0.5) == (found.overlap >= ideas.NEAR)
            refused += found.overlap >= ideas.NEAR
    assert 0 < refused < 3 * PAIRS


def test_made_up_words_change_nothing_that_the_rule_sees() -> None:
    rule = module(TEMPLATE / "experiment.py", "self_experiment_words")
    drawn = module(TEMPLATE / "prepare.py", "self_prepare_words")
    assert drawn.PLAIN_WORDS == rule.STOP == ideas._STOP
    for arm in ("screen", "confirm"):
        for dataset in DATASETS:
            plain, made_up = (
                drawn.draw(bytes(32), arm, dataset, 1, "held_out", 30, how) for how in ("plain", "made-up")
            )
            assert np.array_equal(plain[1], made_up[1])
            for ours, theirs in zip(plain[0], made_up[0], strict=True):
                assert [len(text) for text in ours] == [len(text) for text in theirs]
                assert ours != theirs
                weights = rule.weigh([ours, theirs])
                assert rule.overlaps_of([ours], weights) == rule.overlaps_of([theirs], weights)


def test_the_same_key_and_seeds_give_the_same_bytes(lab_python: Path, data: Path, tmp_path: Path) -> None:
    again = draw(lab_python, tmp_path)
    for part in ("train", "inputs", "answers"):
        names = {path.name for path in (data / part).iterdir()}
        assert {path.name for path in (again / part).iterdir()} == names
        for name in names:
            assert (again / part / name).read_bytes() == (data / part / name).read_bytes()


def words_of(data: Path, dataset: str) -> set[str]:
    """The content words of a data set's training plans."""
    archive = arrays(data / "train" / f"{dataset}.npz")
    texts = (text.tobytes().decode() for seed in (1, 2) for pair in archive[f"pairs_{seed}"] for text in pair)
    return set().union(*map(ideas.content_words, texts))


def test_another_key_another_arm_and_another_data_set_have_other_words(
    lab_python: Path, data: Path, tmp_path: Path
) -> None:
    others = [draw(lab_python, tmp_path / "key", bytes(32)), draw(lab_python, tmp_path / "arm", arm="confirm")]
    for dataset in DATASETS:
        ours = words_of(data, dataset)
        assert len(ours) > 150
        for other in others:
            assert len(ours & words_of(other, dataset)) < 0.05 * len(ours)
    assert len(words_of(data, DATASETS[0]) & words_of(data, DATASETS[1])) < 0.05 * len(ours)


def test_the_arms_share_no_phrase_of_a_bank(data: Path) -> None:
    drawn = module(TEMPLATE / "prepare.py", "self_prepare_banks")
    key = (data / "key").read_bytes()
    screen, confirm = (drawn.banks_of(key, arm) for arm in ("screen", "confirm"))
    for bank in drawn.BANKS:
        ours, theirs = ({phrase for thing in banks[bank] for phrase in thing} for banks in (screen, confirm))
        assert ours
        assert theirs
        assert not ours & theirs
    assert drawn.banks_of(bytes(32), "screen") != screen


def test_a_seed_does_not_depend_on_the_others_and_seeds_differ(lab_python: Path, data: Path, tmp_path: Path) -> None:
    alone = draw(lab_python, tmp_path, seeds="2")
    for dataset in DATASETS:
        ours, listed = (arrays(folder / "train" / f"{dataset}.npz") for folder in (alone, data))
        assert np.array_equal(ours["pairs_2"], listed["pairs_2"])
        assert not np.array_equal(listed["same_1"], listed["same_2"])
        asked, among = (np.load(folder / "inputs" / f"{dataset}_2.npy") for folder in (alone, data))
        assert np.array_equal(asked, among)


def test_a_run_is_given_no_label_of_a_held_out_pair_and_no_held_out_change(data: Path) -> None:
    drawn = module(TEMPLATE / "prepare.py", "self_prepare_held_out")
    key = (data / "key").read_bytes()
    for dataset in DATASETS:
        train, held = (arrays(data / part / f"{dataset}.npz") for part in ("train", "answers"))
        assert set(held) == {"same_1", "same_2"}
        assert set(train) == {f"{name}_{seed}" for name in ("pairs", "same") for seed in (1, 2)}
        for seed in (1, 2):
            asked = np.load(data / "inputs" / f"{dataset}_{seed}.npy")
            assert asked.shape[:2] == (PAIRS, 2)
            assert asked.dtype == np.uint8
            for labels in (held[f"same_{seed}"], train[f"same_{seed}"]):
                assert labels.tolist().count(1) == PAIRS // 2
            _, same = drawn.draw(key, "screen", dataset, seed, "held_out", PAIRS)
            assert np.array_equal(same, held[f"same_{seed}"])
            texts = [{bytes(text) for pair in part for text in pair} for part in (asked, train[f"pairs_{seed}"])]
            assert not texts[0] & texts[1]

    seen: dict[str, set[tuple[int, int]]] = {"train": set(), "held_out": set()}
    draw_pair = drawn.draw_pair
    for part, changes in seen.items():

        def noted(banks: dict, style: object, those: list, *rest: object, changes: set = changes) -> tuple[str, str]:
            changes.update(those)
            return draw_pair(banks, style, those, *rest)

        drawn.draw_pair = noted
        drawn.draw(key, "screen", "reworded", 1, part, 4)
    assert seen["train"]
    assert seen["held_out"]
    assert not seen["train"] & seen["held_out"]


def ordered_well(values: np.ndarray, same: np.ndarray) -> float:
    """How often a pair of one idea has the higher value, ties counted half."""
    one, two = values[same == 1], values[same == 0]
    return float((one[:, None] > two).mean() + 0.5 * (one[:, None] == two).mean())


def test_no_habit_of_writing_tells_a_hard_pair(data: Path) -> None:
    drawn = module(TEMPLATE / "prepare.py", "self_prepare_habits")
    key = (data / "key").read_bytes()
    for arm in ("screen", "confirm"):
        pairs, same = drawn.draw(key, arm, "same_subject", 1, "train", 1200)
        lengths = np.array([(len(first), len(second)) for first, second in pairs])
        told = {
            "difference": -np.abs(lengths[:, 0] - lengths[:, 1]),
            "sum": lengths.sum(axis=1),
            "sentences": -np.array([abs(first.count(".") - second.count(".")) for first, second in pairs]),
            "order": lengths[:, 0] - lengths[:, 1],
        }
        for name, values in told.items():
            assert abs(ordered_well(values, same) - 0.5) < 0.06, name  # over three standard errors of 600 against 600


@pytest.mark.parametrize("key", [b"", bytes(31), bytes(33)])
def test_a_key_of_another_length_is_bad_usage(lab_python: Path, tmp_path: Path, key: bytes) -> None:
    (tmp_path / "key").write_bytes(key)
    done = prepare(lab_python, tmp_path / "key", tmp_path / "out", part="train")
    assert done.returncode == 2
    assert "32 bytes" in done.stderr
    assert not (tmp_path / "out").exists()


# The judge.


def write_judgements(data: Path, out: Path, judge: Callable[[str, int, np.ndarray], np.ndarray]) -> Path:
    """Write the probabilities that a function of data set, seed and encoded pairs gives."""
    out.mkdir(exist_ok=True)
    for dataset in DATASETS:
        for seed in (1, 2):
            asked = np.load(data / "inputs" / f"{dataset}_{seed}.npy")
            np.save(out / f"predictions_{dataset}_{seed}.npy", judge(dataset, seed, asked).astype(np.float32))
    return out


def labels(data: Path, dataset: str, seed: int) -> np.ndarray:
    return arrays(data / "answers" / f"{dataset}.npz")[f"same_{seed}"]


def test_the_metrics_are_what_they_say(lab_python: Path, data: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    said = {(dataset, seed): rng.uniform(size=PAIRS).round(1) for dataset in DATASETS for seed in (1, 2)}
    outputs = write_judgements(data, tmp_path / "outputs", lambda dataset, seed, _: said[dataset, seed])
    metrics = evaluate(lab_python, data, outputs, tmp_path / "out")
    for dataset in DATASETS:
        for place, seed in enumerate((1, 2)):
            same = labels(data, dataset, seed)
            told = said[dataset, seed].astype(np.float32).astype(float)
            nats = [
                -math.log(min(max(one if label else 1 - one, 0.001), 0.999))
                for one, label in zip(told.tolist(), same.tolist(), strict=True)
            ]
            of = {name: values[place] for name, values in metrics[dataset].items()}
            assert of["log_loss"] == pytest.approx(np.mean(nats), abs=1e-9)
            assert of["miss_rate"] == pytest.approx(np.mean(told[same == 1] < 0.5))
            assert of["false_refusal_rate"] == pytest.approx(np.mean(told[same == 0] >= 0.5))
            assert of["auc"] == pytest.approx(ordered_well(told, same))


def test_who_is_surer_or_vaguer_than_right_loses(lab_python: Path, data: Path, tmp_path: Path) -> None:
    losses = []
    for surety in (0.55, 0.75, 0.999):

        def wrong_in_a_quarter(dataset: str, seed: int, asked: np.ndarray, surety: float = surety) -> np.ndarray:
            right = np.arange(len(asked)) % 4 > 0
            return np.where((labels(data, dataset, seed) == 1) == right, surety, 1 - surety)

        outputs = write_judgements(data, tmp_path / f"{surety}", wrong_in_a_quarter)
        losses.append(mean_loss(evaluate(lab_python, data, outputs, tmp_path / f"out_{surety}")))
    assert losses[1] < losses[0]
    assert losses[1] < losses[2]


@pytest.mark.parametrize(
    ("fault", "word"),
    [
        ("missing", "is missing"),
        ("nan", "not finite"),
        ("negative", "no probability"),
        ("above", "no probability"),
        ("short", "must hold floats"),
        ("whole", "must hold floats"),
        ("pickle", "not a plain"),
    ],
)
def test_judgements_that_cannot_be_judged_are_refused(
    lab_python: Path, data: Path, tmp_path: Path, fault: str, word: str
) -> None:
    outputs = write_judgements(data, tmp_path / "outputs", lambda *_: np.full(PAIRS, 0.5))
    path = outputs / "predictions_same_subject_2.npy"
    told = np.load(path)
    told[3] = {"nan": np.nan, "negative": -0.01, "above": 1.01}.get(fault, 0.5)
    if fault == "short":
        told = told[:-1]
    if fault == "whole":
        told = told.astype(np.int64)
    path.unlink()
    if fault == "pickle":
        np.save(path, np.array([{}], dtype=object), allow_pickle=True)
    elif fault != "missing":
        np.save(path, told)
    done = judged(lab_python, data, outputs, tmp_path / "out")
    assert done.returncode == 1
    assert done.stderr.startswith(path.name)
    assert word in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "out" / "metrics.json").exists()


def test_the_surest_error_costs_a_bounded_loss(lab_python: Path, data: Path, tmp_path: Path) -> None:
    outputs = write_judgements(data, tmp_path / "outputs", lambda dataset, seed, _: 1.0 - labels(data, dataset, seed))
    for entry in evaluate(lab_python, data, outputs, tmp_path / "out").values():
        assert entry["log_loss"] == pytest.approx([-math.log(0.001)] * 2)
        assert entry["auc"] == [0, 0]
        assert entry["miss_rate"] == entry["false_refusal_rate"] == [1, 1]


# Cheats, on as many pairs as tell them from luck.


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory, lab_python: Path) -> tuple[Path, float]:
    """Data of 200 pairs, and the baseline's loss on them."""
    folder = draw(lab_python, tmp_path_factory.mktemp("many"), count=200)
    run = fitted(lab_python, folder, folder / "run_0")
    answers = asked_model(lab_python, folder, run, folder / "answers_of_run")
    return folder, mean_loss(evaluate(lab_python, folder, answers, folder / "out"))


@pytest.mark.slow
def test_cheats_are_no_better_than_the_baseline(lab_python: Path, many: tuple[Path, float], tmp_path: Path) -> None:
    folder, baseline = many
    experiment = module(TEMPLATE / "experiment.py", "self_experiment_cheats")
    drawn = module(TEMPLATE / "prepare.py", "self_prepare_cheats")

    def words(encoded: np.ndarray) -> list[frozenset[str]]:
        pairs = experiment.decode(encoded)
        return [experiment.content_words(" ".join(pair)) for pair in pairs]

    def memory(dataset: str, seed: int, asked: np.ndarray) -> np.ndarray:
        """The label of the training pair that is most alike."""
        train = arrays(folder / "train" / f"{dataset}.npz")
        known = words(train[f"pairs_{seed}"])
        places = [max(range(len(known)), key=lambda place: len(one & known[place])) for one in words(asked)]
        return 0.2 + 0.6 * train[f"same_{seed}"][places]

    def training_labels(dataset: str, seed: int, asked: np.ndarray) -> np.ndarray:
        """The labels that a run is given, as if the held-out pairs had them."""
        return 0.2 + 0.6 * arrays(folder / "train" / f"{dataset}.npz")[f"same_{seed}"][: len(asked)]

    def generator_by_heart(dataset: str, seed: int, asked: np.ndarray) -> np.ndarray:
        """The labels that another installation's key would give."""
        return 0.2 + 0.6 * drawn.draw(bytes(32), "screen", dataset, seed, "held_out", len(asked))[1]

    table = phrase_table(drawn)

    def synonyms_by_heart(dataset: str, seed: int, asked: np.ndarray) -> np.ndarray:
        """The rule, with every word of prepare.py's banks read as the first phrase that says the same."""
        same = []
        for first, second in experiment.decode(asked):
            one, two = ({table.get(word, word) for word in experiment.content_words(text)} for text in (first, second))
            same.append(2 * len(one & two) / (len(one) + len(two)))
        train = arrays(folder / "train" / f"{dataset}.npz")
        pairs = experiment.decode(train[f"pairs_{seed}"])
        factors = experiment.fit(
            (experiment.overlaps_of(pairs, {}) - experiment.NEAR)[:, None], train[f"same_{seed}"], 8
        )
        return experiment.probability((np.array(same) - experiment.NEAR)[:, None], factors)

    cheats = {
        "always one": lambda *_: np.full(200, 1.0),
        "always two": lambda *_: np.full(200, 0.0),
        "a half": lambda *_: np.full(200, 0.5),
        "memory": memory,
        "training labels": training_labels,
        "generator": generator_by_heart,
    }
    losses = {}
    for name, judge in (cheats | {"synonyms": synonyms_by_heart}).items():
        outputs = write_judgements(folder, tmp_path / name, judge)
        losses[name] = mean_loss(evaluate(lab_python, folder, outputs, tmp_path / f"out {name}"))
    assert min(losses[name] for name in cheats) > baseline + 0.02, (losses, baseline)
    assert losses["synonyms"] > baseline - 0.005, (losses, baseline)


def phrase_table(drawn: ModuleType) -> dict[str, str]:
    """Each stem of a phrase, and the first stem of the first phrase that says the same."""
    table: dict[str, str] = {}
    for bank in drawn.BANKS:
        for phrases in drawn.lines(bank):
            stems = [stem for phrase in phrases for stem in sorted(ideas.content_words(phrase))]
            table |= dict.fromkeys(stems, stems[0])
    return table


@pytest.mark.slow
def test_synonyms_that_are_known_would_help_if_the_words_were_plain(lab_python: Path, tmp_path: Path) -> None:
    """So that the cheat above fails for the made-up words, and not by itself."""
    drawn = module(TEMPLATE / "prepare.py", "self_prepare_plain")
    table = phrase_table(drawn)
    gains = {}
    for how in ("plain", "made-up"):
        pairs, same = drawn.draw(bytes(32), "screen", "reworded", 1, "held_out", 600, how)
        own, mapped = [], []
        for pair in pairs:
            first, second = map(ideas.content_words, pair)
            own.append(2 * len(first & second) / (len(first) + len(second)))
            first, second = ({table.get(word, word) for word in words} for words in (first, second))
            mapped.append(2 * len(first & second) / (len(first) + len(second)))
        gains[how] = ordered_well(np.array(mapped), same) - ordered_well(np.array(own), same)
    assert gains["plain"] > 0.03, gains
    assert abs(gains["made-up"]) < 0.01, gains


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
    lab_python: Path, many: tuple[Path, float], tmp_path: Path
) -> None:
    folder, baseline = many
    programs = edited()
    wrong = tmp_path / "wrong"
    wrong.mkdir()
    (wrong / "experiment.py").write_text(programs[FAILS]["experiment.py"])
    told = {"FUMEHOOD_DATA": str(folder / "train"), "FUMEHOOD_SEEDS": "1,2"}
    done = program(lab_python, wrong / "experiment.py", f"--out_dir={tmp_path / 'run_wrong'}", *SMALL, **told)
    assert done.returncode == 1
    assert "AttributeError" in done.stderr

    losses, whole = {}, {}
    for name in set(programs) - {FAILS}:
        code = tmp_path / name
        code.mkdir()
        for file in ("experiment.py", "serve.py"):
            (code / file).write_text(programs[name][file])
        run = fitted(lab_python, folder, tmp_path / f"run_{name}", code=code)
        answers = asked_model(lab_python, folder, run, tmp_path / f"answers_{name}", code)
        whole[name] = evaluate(lab_python, folder, answers, tmp_path / f"out_{name}")
        losses[name] = mean_loss(whole[name])
    for name in ("where_the_threshold_lies_1_2", "where_the_threshold_lies_2_1"):
        assert losses[name] < baseline - 0.01, (losses, baseline)
        assert np.mean(whole[name]["reworded"]["miss_rate"]) < 0.4
    assert losses["where_the_threshold_lies_2_1"] < baseline - 0.03, (losses, baseline)
    assert losses["rare_words_count_more_1_1"] < baseline - 0.04, (losses, baseline)
    assert losses["rare_words_count_more_2_1"] < losses["rare_words_count_more_1_1"] - 0.02, losses
    assert losses["words_that_told_pairs_apart_2_1"] < baseline - 0.1, (losses, baseline)
    assert losses["stricter_overlap_1_1"] > baseline + 0.03, (losses, baseline)
    assert losses["stricter_overlap_2_1"] > baseline + 0.01, (losses, baseline)
    assert abs(losses["length_of_stems_1_1"] - baseline) < 0.02, (losses, baseline)
    assert abs(losses["length_of_stems_2_1"] - baseline) < 0.02, (losses, baseline)


@pytest.mark.slow
def test_every_edit_runs_and_leaves_a_seed_alone_what_it_is_beside_others(
    lab_python: Path, data: Path, tmp_path: Path
) -> None:
    for name, files in edited().items():
        if name == FAILS:
            continue
        code = tmp_path / name
        code.mkdir()
        for file in ("experiment.py", "serve.py"):
            (code / file).write_text(files[file])
        together = fitted(lab_python, data, code / "together", code=code)
        alone = fitted(lab_python, data, code / "alone", code=code, seeds="2")
        for dataset in DATASETS:
            whole, own = (arrays(run / f"model_{dataset}_2.npz") for run in (together, alone))
            assert all(np.array_equal(whole[part], own[part]) for part in whole), f"{name}: {dataset}"
        asked_model(lab_python, data, alone, code / "answers", code, seeds="2")


# The experiment itself.


def said_by(run: Path) -> dict[str, list[float]]:
    info = json.loads((run / "final_info.json").read_text())
    return {dataset: info[dataset]["final_info_dict"]["training_loss"] for dataset in DATASETS}


def test_the_same_seeds_twice_give_the_same_numbers_and_seeds_differ(
    lab_python: Path, data: Path, run: Path, tmp_path: Path
) -> None:
    again = fitted(lab_python, data, tmp_path / "run_0")
    assert said_by(again) == said_by(run)
    for dataset in DATASETS:
        models = [arrays(run / f"model_{dataset}_{seed}.npz")["factors"] for seed in (1, 2)]
        assert not np.array_equal(*models)
        assert np.array_equal(models[1], arrays(again / f"model_{dataset}_2.npz")["factors"])
    answers = [
        asked_model(lab_python, data, one, tmp_path / f"answers_{place}") for place, one in enumerate((run, again))
    ]
    metrics = [evaluate(lab_python, data, one, tmp_path / f"out_{place}") for place, one in enumerate(answers)]
    assert metrics[0] == metrics[1]
    assert all(entry["log_loss"][0] != entry["log_loss"][1] for entry in metrics[0].values())


def test_the_answers_do_not_depend_on_the_seeds_beside_them(
    lab_python: Path, data: Path, run: Path, tmp_path: Path
) -> None:
    alone = fitted(lab_python, data, tmp_path / "alone", seeds="2")
    ours = asked_model(lab_python, data, alone, tmp_path / "own", seeds="2")
    listed = asked_model(lab_python, data, run, tmp_path / "listed")
    for dataset in DATASETS:
        name = f"predictions_{dataset}_2.npy"
        assert np.array_equal(np.load(ours / name), np.load(listed / name))


def test_a_run_that_was_broken_off_is_taken_up_with_the_same_arguments_only_and_ends_the_same(
    lab_python: Path, data: Path, run: Path, tmp_path: Path
) -> None:
    asked = (lab_python, TEMPLATE / "experiment.py", f"--out_dir={tmp_path / 'run_0'}", *SMALL)
    shutil.copytree(data / "train", tmp_path / "some", ignore=shutil.ignore_patterns("long_boilerplate*"))
    some, every = ({"FUMEHOOD_DATA": str(one), "FUMEHOOD_SEEDS": "1,2"} for one in (tmp_path / "some", data / "train"))
    assert program(*asked, **some).returncode == 1
    for words, seeds in ((("--steps=3",), "1,2"), ((), "1,3")):
        refused = program(*asked, *words, **every | {"FUMEHOOD_SEEDS": seeds})
        assert "was written with other arguments or seeds" in refused.stderr
        assert not (tmp_path / "run_0" / "final_info.json").exists()
    done = program(*asked, **every)
    assert done.returncode == 0, done.stderr
    assert "reworded seed 1 is there" in done.stdout
    assert "long_boilerplate seed 1: 24 pairs" in done.stdout
    assert said_by(tmp_path / "run_0") == said_by(run)
    assert {path.name for path in (tmp_path / "run_0").iterdir()} == {path.name for path in run.iterdir()}
    times = json.loads((tmp_path / "run_0" / "final_info.json").read_text())["reworded"]["means"]["training_time"]
    assert times > 0  # of the fits that were there already, too
    assert program(*asked, **every).stdout.strip() == f"{tmp_path / 'run_0'} is finished"


def test_a_run_by_hand_writes_its_own_pairs(lab_python: Path, tmp_path: Path) -> None:
    done = program(lab_python, TEMPLATE / "experiment.py", f"--out_dir={tmp_path / 'run_0'}", FUMEHOOD_SEEDS="7")
    assert done.returncode == 0, done.stderr
    assert "reworded seed 7: 120 pairs" in done.stdout


def test_the_fit_finds_the_logistic_function_that_labels_were_drawn_from() -> None:
    experiment = module(TEMPLATE / "experiment.py", "self_experiment_fit")
    rng = np.random.default_rng(1)
    columns = np.stack([rng.uniform(-1, 1, 40_000), np.ones(40_000)], axis=1)
    true = np.array([3.0, -0.7])
    same = (rng.uniform(size=40_000) < experiment.probability(columns, true)).astype(int)
    assert np.allclose(experiment.fit(columns, same, 10), true, atol=0.1)
    sure = experiment.fit(columns, (columns[:, 0] > 0).astype(int), 20)  # told apart without an error
    assert np.isfinite(sure).all()
    assert experiment.probability(np.array([[0.0]]), np.array([9.0])) == 0.5


@pytest.mark.parametrize("argument", ["--no_such_thing=1", "--steps=0", "--steps=-3"])
def test_a_bad_argument_exits_2(lab_python: Path, tmp_path: Path, argument: str) -> None:
    done = program(lab_python, TEMPLATE / "experiment.py", f"--out_dir={tmp_path / 'run_0'}", argument)
    assert done.returncode == 2
    assert not (tmp_path / "run_0").exists()


def test_a_run_leaves_the_promised_files_counts_and_figures(
    lab_python: Path, data: Path, run: Path, tmp_path: Path
) -> None:
    counts = json.loads((run / "parameters.json").read_text())
    model = arrays(run / "model_reworded_1.npz")
    assert counts == {"parameters": len(model["words"]) + 2, "updates": 8}
    answers = asked_model(lab_python, data, run, tmp_path / "answers")
    assert json.loads((answers / "counted.json").read_text())["parameters"] == counts["parameters"]
    evaluate(lab_python, data, answers, tmp_path)
    for number in (0, 1):
        copy = tmp_path / f"run_{number}"
        shutil.copytree(run, copy)
        (copy / "final_info.json").write_bytes((tmp_path / "metrics.json").read_bytes())
    shutil.copy(TEMPLATE / "plot.py", tmp_path)
    environment = {"PATH": "/usr/bin:/bin", "MPLCONFIGDIR": str(tmp_path)}
    command = [str(lab_python), "-B", "plot.py"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    for name in ("overlaps", "log_loss_by_run", "miss_rate_by_run"):
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
