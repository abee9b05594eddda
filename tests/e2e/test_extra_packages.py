"""Packages beside the lab's, by the real command in real sandboxes: who finds them, who does not, what is refused."""

from __future__ import annotations

import base64
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import OFFLINE, OWN_CODER, House
from tests.e2e.test_serve import Serving, until
from tests.fakes.laboratory import TINY, write_template
from tests.fakes.quick import playbook
from tests.fakes.wheels import write_wheel

pytestmark = [pytest.mark.slow, pytest.mark.local]
NOWHERE = {"PIP_CONFIG_FILE": os.devnull, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": ""}
"""What keeps pip from any index: a wheel that is given as a file is enough."""
BY_FROZEN = """
import importlib.util
if importlib.util.find_spec("tinyextra"):
    raise SystemExit("the frozen pair finds what only experiments should")
"""
SCALED = 'SCALE = 1.0\nprint("scaled with", __import__("tinyextra").__file__)\n'


def write_scaled(folder: Path) -> Path:
    """Write a template whose experiment and plot need a package, and whose frozen pair fails where it is found."""
    files = {
        **TINY,
        "experiment.py": "import tinyextra\n" + TINY["experiment.py"].replace("[SCALE +", "[tinyextra.half(SCALE) +"),
        "plot.py": "import tinyextra\n" + TINY["plot.py"],
        "prepare.py": BY_FROZEN + TINY["prepare.py"],
        "evaluate.py": BY_FROZEN + TINY["evaluate.py"],
        "offline.toml": playbook(),
    }
    return write_template(folder / "scaled", files)


def write_extra(folder: Path) -> Path:
    return write_wheel(folder, "tinyextra", files={"tinyextra/__init__.py": "def half(x):\n    return x / 2\n"})


def records(out: Path) -> dict[str, dict[str, Any]]:
    found = {}
    for path in sorted(out.rglob("run_*/record.json")):
        envelope = json.loads(path.read_bytes())
        found[path.parent.name] = json.loads(base64.b64decode(envelope["payload"]))["predicate"]
    return found


def test_a_direction_runs_with_a_wheel_that_only_its_experiments_find(make_house: Any, tmp_path: Path) -> None:
    house: House = make_house("extra", **NOWHERE, **OWN_CODER)
    template, wheel, out = write_scaled(tmp_path), write_extra(tmp_path / "given"), tmp_path / "out"
    lacking = house.call("template", "check", str(template))
    assert lacking.returncode == 1
    assert "The lab lacks tinyextra" in lacking.stdout
    assert "--packages NAME==VERSION or --wheel FILE" in lacking.stdout
    checked = house.call("template", "check", str(template), "--wheel", str(wheel))
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "getting tinyextra-1.0-py3-none-any.whl" in checked.stdout

    asked = ("--template", str(template), *OFFLINE, "--ideas", "1", "--runs", "1", "--out", str(out))
    done = house.call("run", *asked, "--wheel", str(wheel))
    assert done.returncode == 0, done.stderr[-3000:]
    assert "getting" not in done.stdout + done.stderr  # it was built for the check
    (derived,) = (house.state / "lab/derived").glob("*/lab.json")
    told = json.loads(derived.read_text())
    found = records(out)
    assert set(found) == {"run_0", "run_1"}
    assert {one["image"] for one in found.values()} == {f"lab@sha256:{told['hash']}"}
    assert found["run_0"]["metrics"]["error"]["datasets"]["circle"]["seeds"] == [0.75, 1.0]
    assert list(out.rglob("scores.png"))

    # Going on, it keeps its lab, and says so where another one is asked for.
    again = house.call("run", *asked, "--wheel", str(wheel), "--resume")
    assert again.returncode == 0, again.stderr
    other = house.call("run", *asked, "--packages", "tinyextra==2.0", "--resume")
    assert other.returncode == 2
    assert "began with others" in other.stderr
    # What was measured is measured again in the same lab, by a state folder of its own.
    rerun = house.call("verify", str(out), "--rerun", "--run", "0", "--template", str(template), "--sandbox", "local")
    assert rerun.returncode == 0, rerun.stdout + rerun.stderr
    assert "1 of 1 runs came to the same" in rerun.stdout
    assert house.left() == []


def test_a_template_declares_its_wheel_and_its_baseline_is_measured(make_house: Any, tmp_path: Path) -> None:
    house: House = make_house("declared", **NOWHERE)
    template = write_scaled(tmp_path)
    wheel = write_extra(template / "wheels")
    words = template / "template.toml"
    words.write_text(f'packages = ["numpy"]\nwheels = ["wheels/{wheel.name}"]\n{words.read_text()}')
    assert house.call("template", "check", str(template)).returncode == 0
    done = house.call("template", "baseline", str(template), "--profile", "tiny", "--sandbox", "local")
    assert done.returncode == 0, done.stderr[-3000:]
    assert "circle error: 0.875" in done.stdout
    # Beside it, what does not go with the lab is refused before anything runs.
    clashing = write_wheel(tmp_path / "given", "clashing", needs=("numpy<1",))
    for given, why in (
        (("--packages", "numpy==1.0"), "which is never replaced: numpy==1.0 cannot be had"),
        (("--wheel", str(clashing)), "clashing 1.0 depends on numpy<1; the lab has numpy=="),
    ):
        refused = house.call("template", "baseline", str(template), "--profile", "tiny", "--sandbox", "local", *given)
        assert refused.returncode == 2, refused.stderr
        assert why in refused.stderr
        assert len(refused.stderr.strip().splitlines()[-1]) < 400
    assert len(list((house.state / "lab/derived").glob("*/lab.json"))) == 1


@pytest.mark.kill
@pytest.mark.latex
def test_a_server_builds_what_its_templates_declare_before_it_takes_work(make_house: Any, tmp_path: Path) -> None:
    shipped = tmp_path / "shipped"
    template, lacking = write_scaled(shipped), write_scaled(tmp_path / "other").rename(shipped / "lacking")
    wheel = write_extra(template / "wheels")
    for place, told in ((template, f'wheels = ["wheels/{wheel.name}"]'), (lacking, 'packages = ["no-such-name==1"]')):
        words = place / "template.toml"
        words.write_text(f"{told}\n{words.read_text()}")
    house: House = make_house("serves-extra", FUMEHOOD_TEMPLATES_DIR=str(shipped), **NOWHERE, **OWN_CODER)
    server = Serving(house, tmp_path)
    try:
        key = server.told()["admin_key"]
        assert "the extra packages of lacking are not there: No wheel of no-such-name==1" in server.said()
        ends = {}
        for name in ("scaled", "lacking"):
            asked = {"template": name, "profile": "tiny", "model": "offline", "ideas": 1, "runs": 1}
            posted = json.loads(server.curl("/v1/directions", key, "--json", json.dumps(asked)))["id"]
            ends[name] = ended(server, posted, key)
        assert ends["scaled"]["state"] == "done"
        assert ends["lacking"]["state"] == "failed"
        assert "extra packages of this template is not built here" in ends["lacking"]["error"]
        assert len(list((house.state / "lab/derived").glob("*/lab.json"))) == 1
        assert server.end(signal.SIGTERM) == 0
    finally:
        server.close()
    assert house.left() == []


def ended(server: Serving, posted: str, key: str) -> dict[str, Any]:
    """Return what a direction came to."""

    def read() -> dict[str, Any]:
        found: dict[str, Any] = json.loads(server.curl(f"/v1/directions/{posted}", key))
        return found

    until(lambda: read()["state"] in {"done", "failed"}, 300, posted)
    return read()
