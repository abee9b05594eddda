"""The program that starts `plot.py`: what it tells of figures that Matplotlib really draws."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from fumehood.services import drawings
from fumehood.services.plot_driver import DRIVER

pytestmark = pytest.mark.slow
TITLES = {"run_0": "Baseline", "run_1": "Cosine", "run_2": "Sigmoid"}
BEGIN = """
import json
import sys
from pathlib import Path
import matplotlib.pyplot as plt
import helper

labels = {"run_0": "Baseline", "run_1": "A cosine\\nschedule"}
values = {run: json.loads((Path(run) / "final_info.json").read_text()) for run in labels}
"""
LINES = """
for run, name in labels.items():
    plt.plot([0, 1, 2], [*values[run], float("nan")], label=name)
plt.xlabel("step"); plt.ylabel("loss"); plt.title("Losses"); plt.legend()
plt.savefig("losses.png")
"""
OTHERS = """
figure, (left, right, third) = plt.subplots(1, 3)
left.scatter([1, 2], [3, 4], label="Baseline")
left.legend()
right.bar(["a", "b"], [5, 6], label="bars")
right.fill_between([0, 1], [0, 0], [1, 1])
third.imshow([[1.0, 2.0], [3.0, 4.0]])
figure.supylabel("all of them")
figure.savefig(Path.cwd() / "others.png")
figure.savefig("kept.pdf")
Path("deep").mkdir(exist_ok=True)
figure.savefig("deep/inside.png")
"""


def draw(python: Path, folder: Path, program: str) -> subprocess.CompletedProcess[str]:
    """Let the driver start a program where three runs lie."""
    for number, run in enumerate(TITLES):
        (folder / run).mkdir(exist_ok=True)
        (folder / run / "final_info.json").write_text(json.dumps([number + 1.5, number + 0.123456789012]))
    (folder / "helper.py").write_text("x = 1\n")
    (folder / "plot.py").write_text(program)
    (folder / "in").mkdir(exist_ok=True)
    (folder / "in" / "driver.py").write_bytes(DRIVER.read_bytes())
    return subprocess.run(
        [str(python), "-B", str(folder / "in" / "driver.py")], cwd=folder, capture_output=True, text=True, timeout=120
    )


def told(folder: Path, stem: str) -> Any:
    return json.loads((folder / "drawn" / f"{stem}.json").read_text())


def test_series_words_and_files_read_are_told_of_each_figure(lab_python: Path, tmp_path: Path) -> None:
    done = draw(lab_python, tmp_path, BEGIN + LINES + OTHERS)
    assert done.returncode == 0, done.stderr
    losses = told(tmp_path, "losses")
    assert losses["names"] == {"run_0": "Baseline", "run_1": "A cosine schedule"}
    assert losses["read"] == ["run_0/final_info.json", "run_1/final_info.json"]
    assert losses["axes"] == [{"title": "Losses", "x": "step", "y": "loss"}]
    assert [(one["label"], one["kind"], one["n"]) for one in losses["series"]] == [
        ("Baseline", "line", 3),
        ("A cosine schedule", "line", 3),
    ]
    assert losses["series"][1]["y"] == [2.5, 1.12345679, None]
    assert {"Losses", "A cosine schedule"} <= set(losses["words"])
    drawn = drawings.drawn_of((tmp_path / "drawn/losses.json").read_bytes())
    assert drawings.runs_in(drawn, TITLES) == (("run_0", "run_1"), "labels")
    assert drawings.strays(drawn, TITLES) == []
    assert {one["y"] for one in told(tmp_path, "others")["axes"]} == {"all of them"}
    others = {one["kind"]: one for one in told(tmp_path, "others")["series"]}
    assert (others["points"]["x"], others["points"]["y"]) == ([1, 2], [3, 4])
    assert others["bars"]["y"] == [5, 6]
    assert others["outline"]["axes"] == 1
    assert others["image"]["y"] == [1, 2, 3, 4]
    assert sorted(path.name for path in (tmp_path / "drawn").iterdir()) == ["losses.json", "others.json"]


def test_a_program_ends_as_it_would_alone(lab_python: Path, tmp_path: Path) -> None:
    for program, status, words in (
        ("raise SystemExit('no run here')\n", 1, "no run here"),
        ("raise SystemExit(3)\n", 3, ""),
        ("def f():\n    raise ValueError('broken here')\n\nf()\n", 1, "ValueError: broken here"),
        ("x = (\n", 1, "SyntaxError"),
        ("import sys\nassert __name__ == '__main__' and sys.argv == ['plot.py'], sys.argv\n", 0, ""),
        ("from dataclasses import dataclass\n\n@dataclass\nclass A:\n    x: int = 1\n", 0, ""),
        ("open('run_9/final_info.json')\n", 1, "FileNotFoundError"),
    ):
        done = draw(lab_python, tmp_path, program)
        assert done.returncode == status, (program, done.stderr)
        assert words in done.stderr


def test_of_a_figure_without_end_a_part_is_kept_and_the_rest_counted(lab_python: Path, tmp_path: Path) -> None:
    many = (
        "import matplotlib.pyplot as plt\nplt.plot(range(70_000))\nplt.plot(range(70_000))\nplt.savefig('many.png')\n"
    )
    assert draw(lab_python, tmp_path, many).returncode == 0
    series = told(tmp_path, "many")["series"]
    assert [one["n"] for one in series] == [70_000, 70_000]
    assert sum(len(one["x"]) for one in series) == 50_000
