"""A finished folder in real sandboxes once more: its runs are measured again, and one experiment is replayed."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import OFFLINE, OWN_CODER, House
from tests.fakes.quick import write_quick_template

pytestmark = [pytest.mark.kill, pytest.mark.slow, pytest.mark.local, pytest.mark.latex]
CLOCK = ("values = [SCALE + seed % 8 / 4", "import time\n\nvalues = [SCALE + time.time() + seed % 8 / 4")
"""What makes an experiment come to other numbers each time, seconds apart where its seeds are 0.25 apart."""


def made(house: House, template: Path, out: Path) -> Path:
    done = house.call("run", "--template", str(template), *OFFLINE, "--ideas", "1", "--runs", "1", "--out", str(out))
    assert done.returncode == 0, done.stderr[-3000:]
    return out


def again(house: House, out: Path, template: Path, *options: str) -> tuple[int, dict[str, Any]]:
    given = ("--rerun", "--template", str(template), "--sandbox", "local", "--json")
    done = house.call("verify", str(out), *given, *options)
    told: dict[str, Any] = json.loads(done.stdout)
    return done.returncode, told


@dataclass(frozen=True)
class Finished:
    """A folder that nobody changes, where it was made, and of what."""

    house: House
    template: Path
    out: Path


@pytest.fixture(scope="module")
def finished(make_house: Any, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    folder, house = tmp_path_factory.mktemp("finished"), make_house("rerun", **OWN_CODER)
    template = write_quick_template(folder / "shipped")
    return Finished(house, template, made(house, template, folder / "out"))


def test_a_run_is_measured_again_and_comes_to_the_same(finished: Finished, make_house: Any) -> None:
    house, template, out = finished.house, finished.template, finished.out
    status, told = again(house, out, template)
    assert (status, told["holds"]) == (0, True), told
    assert [one["run"] for one in told["rerun"]] == ["smaller_scale/run_0", "smaller_scale/run_1"]
    numbers = [number for one in told["rerun"] for number in one["numbers"]]
    assert numbers
    assert all(number["same"] for number in numbers)
    # The two records are told apart by their code, and their seeds were drawn from.
    errors = [one["numbers"][0]["recorded"] for one in told["rerun"]]
    assert errors[0] - errors[1] == pytest.approx(0.5)
    assert told["rerun"][1]["noise"]["circle/error"] > 0
    status, told = again(house, out, template, "--run", "1")
    assert [one["run"] for one in told["rerun"]] == ["smaller_scale/run_1"]
    done = house.call("verify", str(out), "--rerun", "--run", "7", "--template", str(template))
    assert (done.returncode, "holds no record of run_7" in done.stderr) == (2, True)
    assert house.left() == []
    assert not list((house.state / "reruns").iterdir())

    stranger: House = make_house("stranger")
    key = str(out / "signing_key.pem")
    done = stranger.call("verify", str(out), "--key", key, "--rerun", "--template", str(template))
    assert done.returncode == 3, done.stdout
    assert "drawn from a secret that is not this installation's" in done.stderr


def test_numbers_beyond_the_noise_end_it_with_1(make_house: Any, tmp_path: Path) -> None:
    house: House = make_house("clock", **OWN_CODER)
    template = write_quick_template(tmp_path / "shipped")
    program = (template / "experiment.py").read_text()
    assert program.count(CLOCK[0]) == 1
    (template / "experiment.py").write_text(program.replace(*CLOCK))
    out = made(house, template, tmp_path / "out")
    done = house.call("verify", str(out), "--rerun", "--run", "0", "--template", str(template), "--sandbox", "local")
    assert done.returncode == 1, done.stdout
    assert "DIFFERS  smaller_scale/run_0: circle/error of seed" in done.stdout
    assert "where the seeds' noise allows" in done.stdout
    assert "0 of 1 runs came to the same" in done.stdout
    (template / "evaluate.py").write_text("raise SystemExit(1)\n")
    done = house.call("verify", str(out), "--rerun", "--template", str(template), "--sandbox", "local")
    assert (done.returncode, "The template's evaluate.py is not what it was" in done.stderr) == (2, True)


def test_a_changed_folder_is_not_run(finished: Finished, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(finished.out, tmp_path / "copy"))
    (copy / "experiments/smaller_scale/run_1/final_info.json").write_text("{}")
    status, told = again(finished.house, copy, finished.template)
    assert (status, told["holds"], "rerun" in told) == (1, False, False)


def test_an_experiment_alone_is_told_of_alone(finished: Finished) -> None:
    [experiment] = (finished.out / "experiments").iterdir()
    done = finished.house.call("replay", str(experiment), "--template", str(finished.template))
    assert done.returncode == 0, done.stderr[-2000:]
    lines = [line for line in done.stdout.splitlines() if line.startswith("same ")]
    assert lines
    assert all(line.split()[1].startswith(f"{experiment.name}/") for line in lines)
