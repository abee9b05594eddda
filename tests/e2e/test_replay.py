"""A recorded direction again: its programs really run, its models' answers come from the folder."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.e2e.conftest import Demo, House, again

pytestmark = [pytest.mark.kill, pytest.mark.slow, pytest.mark.local, pytest.mark.latex]


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
