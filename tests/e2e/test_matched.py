"""A run with another budget, confirmed in real sandboxes against a baseline of its own, one seed after the other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fumehood.services import facts
from tests.e2e.conftest import OFFLINE, House
from tests.fakes.laboratory import PLAIN, TINY, write_template
from tests.fakes.quick import FIRST, NAME

pytestmark = [pytest.mark.kill, pytest.mark.slow, pytest.mark.local, pytest.mark.latex]

RULE = {"screen_seeds": 3, "looks": [4, 8], "screen_baseline": 5, "confirm_baseline": 6, "q": 0.5, "ideas": 5}
"""Of few seeds, so that the baseline is soon measured."""
COUNTS = """
    parser = argparse.ArgumentParser()
    parser.add_argument("--updates", type=int, default=UPDATES)
    parser.add_argument("--out_dir", default="run_0")
    asked = parser.parse_args()
    out = pathlib.Path(asked.out_dir)
    out.mkdir(exist_ok=True)
    (out / "parameters.json").write_text(json.dumps({"parameters": 5, "updates": asked.updates}))
    seeds = [int(seed) for seed in os.environ["FUMEHOOD_SEEDS"].split(",")]
    if UPDATES > 10 and min(seeds) > 1_000_000 and len(seeds) > 1:
        raise MemoryError("only with several of these seeds at once")
    values = [SCALE + seed % 8 / 4 for seed in seeds]
"""


def template(folder: Path) -> Path:
    """Write a template whose updates are an argument, and whose one idea makes more of them, and is better."""
    head, _, rest = PLAIN["experiment.py"].partition("parser = ")
    _, _, end = rest.partition("values = [SCALE + seed % 8 / 4 for seed in seeds]\n")
    counts = "".join(line.removeprefix("    ") for line in COUNTS.splitlines(keepends=True)).lstrip()
    program = head.replace("SCALE = 1.0", "SCALE = 1.0\nUPDATES = 10") + counts + end
    words = TINY["template.toml"].replace("[profiles.tiny]\n", "[profiles.tiny]\nconfirm = true\n")
    words += '[comparison]\nequal = "updates"\nargument = "--updates"\n'
    edit = FIRST.replace(
        "SCALE = 1.0\n=======\nSCALE = 0.5\n", "SCALE = 1.0\nUPDATES = 10\n=======\nSCALE = -4.0\nUPDATES = 25\n"
    )
    assert "UPDATES = 25" in edit
    return write_template(
        folder / NAME, {**TINY, "experiment.py": program, "template.toml": words, "offline.toml": edit}
    )


def test_a_baseline_is_given_the_runs_budget_and_the_folder_holds(make_house: Any, tmp_path: Path) -> None:
    house: House = make_house("matched", FUMEHOOD_CONFIRM=json.dumps(RULE))
    shipped, out = template(tmp_path / "shipped"), tmp_path / "out"
    asked = ("--template", str(shipped), *OFFLINE, "--ideas", "1", "--runs", "1", "--out", str(out))
    done = house.call("run", *asked, "--json")
    assert done.returncode == 0, done.stderr[-3000:]
    inside = out / "experiments" / "smaller_scale"
    plan, result = (json.loads((inside / "confirmation.json").read_bytes())[part] for part in ("plan", "result"))
    assert (plan["run"], plan["arguments"]) == ("run_1", ["--updates=25"])
    assert (result["label"], result["outcome"]) == ("better", "confirmed"), result
    assert result["alone"] == {"confirm_1": []}
    found = {path.parent.name: facts.predicate(path.read_bytes()) for path in inside.glob("*/record.json")}
    alone = {f"confirm_1_seed_{place}" for place in range(1, 5)}
    assert found.keys() == {"run_0", "run_1", "confirm_0", *alone}
    assert {name: one["counts"]["updates"] for name, one in found.items()} == {
        "run_0": 10, "run_1": 25, "confirm_0": 25, **dict.fromkeys(alone, 25),
    }  # fmt: skip
    assert [found[name]["arguments"] for name in ("run_0", "confirm_0", "run_1")] == [[], ["--updates=25"], []]
    assert {name: len(one["seeds"]) for name, one in found.items() if name not in alone} == {
        "run_0": 5, "run_1": 3, "confirm_0": 6,
    }  # fmt: skip
    whole_s = found["run_1"]["limits"]["run"]["wall_s"]
    assert {found[name]["limits"]["run"]["wall_s"] for name in alone} == {2 * whole_s / 4}
    assert {one["verdicts"]["run"] for one in found.values()} == {"succeeded"}
    looks = {one["folder"]: one for one in json.loads((inside / "runs.json").read_bytes()) if one["arm"] == "confirm"}
    assert [(one["verdict"], "MemoryError" in one["error_tail"]) for one in looks["confirm_1"]["attempts"]] == [
        ("failed", True)
    ]
    assert "has 25 updates, which the baseline of the screen has not" in (inside / "latex/main.tex").read_text()
    assert house.left() == []

    # What was measured on sealed data too: the baseline with its argument, and a seed that was run alone.
    for name, count in {"run_1": 2 * (3 + 1), "confirm_0": 2 * (6 + 1), "confirm_1_seed_2": 2}.items():
        asked = ("--run", name, "--template", str(shipped), "--sandbox", "local", "--json")
        done = house.call("verify", str(inside), "--rerun", *asked)
        told = json.loads(done.stdout)
        assert (done.returncode, told["holds"]) == (0, True), told
        (one,) = told["rerun"]
        assert (one["run"], len(one["numbers"]), one["elsewhere"]) == (f"smaller_scale/{name}", count, [])
        assert all(number["same"] for number in one["numbers"])
