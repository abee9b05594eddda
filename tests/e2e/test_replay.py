"""A recorded direction again: its programs really run, its models' answers come from the folder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import Demo, House
from tests.fakes.provider import KEY, Provider, serving
from tests.fakes.researcher import Researcher

pytestmark = [pytest.mark.kill, pytest.mark.slow, pytest.mark.local, pytest.mark.latex]
MODEL = "claude-sonnet-4-6"


def again(house: House, folder: Path, *options: str) -> tuple[int, dict[str, Any]]:
    done = house.call("replay", str(folder), *options, "--json")
    return done.returncode, json.loads(done.stdout)


def test_a_direction_of_the_offline_model_comes_to_the_same(
    demo: Demo, house: House, small_template: Path, tmp_path: Path
) -> None:
    status, told = again(house, demo.out, "--template", str(small_template), "--out", str(tmp_path / "out"))
    assert (status, told["different"]) == (0, []), told
    for experiment in demo.experiments:
        for name in ("experiment.py", "run_1.py", "plot.py"):
            assert any(one.startswith(f"{experiment.name}/{name} (SHA-256") for one in told["same"])
            assert (tmp_path / "out/experiments" / experiment.name / name).read_bytes() == (
                experiment / name
            ).read_bytes()
        assert any(one.startswith(f"{experiment.name}/latex/main.tex") for one in told["same"])
    # It really ran: times were measured anew, and its records are signed by a key of its own.
    record = Path("experiments", demo.experiments[0].name, "run_1/record.json")
    assert (tmp_path / "out" / record).read_bytes() != (demo.out / record).read_bytes()
    assert house.left() == []
    assert not list((house.state / "replays").iterdir())


def test_an_experiment_alone_is_told_of_alone(demo: Demo, house: House, small_template: Path) -> None:
    done = house.call("replay", str(demo.experiments[0]), "--template", str(small_template))
    assert done.returncode == 0, done.stderr[-2000:]
    lines = [line for line in done.stdout.splitlines() if line.startswith("same ")]
    assert lines
    assert all(line.split()[1].startswith(f"{demo.experiments[0].name}/") for line in lines)


@pytest.fixture(scope="module")
def written(make_house: Any, small_template: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[House, Path]:
    """A direction that a provider's model wrote; nobody answers for the provider afterwards."""
    provider = Provider(Researcher())
    out = tmp_path_factory.mktemp("replay") / "out"
    with serving(provider.app) as url:
        house: House = make_house("replayed", FUMEHOOD_ANTHROPIC_BASE_URL=url)
        house.call("keys", "set", "anthropic", said=f"{KEY}\n")
        asked = ("--template", str(small_template), "--profile", "tiny", "--sandbox", "local", "--model", MODEL)
        done = house.call("run", *asked, "--ideas", "1", "--runs", "1", "--out", str(out))
    assert done.returncode == 0, done.stderr[-3000:]
    return house, out


def test_a_direction_of_a_provider_comes_to_the_same_without_it(
    written: tuple[House, Path], small_template: Path
) -> None:
    house, out = written
    status, told = again(house, out, "--template", str(small_template))
    assert (status, told["different"]) == (0, []), told
    assert any("/run_1.py (SHA-256" in one for one in told["same"])
    assert any("/latex/main.tex" in one for one in told["same"])


def test_a_folder_that_cannot_be_repeated_is_refused_with_a_sentence(
    demo: Demo, house: House, small_template: Path, tmp_path: Path
) -> None:
    for name, change, words in (
        ("none", lambda file: file.unlink(), "llm_calls.jsonl is missing, and without it no call can be repeated"),
        ("cut", lambda file: file.write_bytes(file.read_bytes()[:-200]), "llm_calls.jsonl line"),
        (
            "changed",
            lambda file: file.write_text(file.read_text().replace('"role": "idea"', '"role": "idee"', 1)),
            "is not what was signed",
        ),
    ):
        copy = tmp_path / name
        shutil.copytree(demo.out, copy)
        change(copy / "llm_calls.jsonl")
        done = house.call("replay", str(copy), "--template", str(small_template))
        assert done.returncode != 0
        assert words in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1, done.stderr
