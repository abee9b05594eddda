"""A finished folder made by the real command in real sandboxes, once for all tests of this folder."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from sandbox import cgroups
from tests.fakes.quick import write_quick_template

COMMAND = (sys.executable, "-m", "fumehood")
OFFLINE = ("--profile", "tiny", "--model", "offline", "--sandbox", "local")
OWN_CODER = {"FUMEHOOD_CODER_PYTHON": "/nonexistent"}
"""Without Aider, which takes four seconds of the processor to start: for directions that are not about their coder."""
DEMO = ("--template", "2d_diffusion", *OFFLINE)
TEMPLATE = Path(__file__).parents[2] / "templates/2d_diffusion"
SMALLER = {
    '"--num_train_steps=400"': '"--num_train_steps=60"',
    "query_count = 1000\n": "query_count = 300\n",
    '"--samples=1000"': '"--samples=300"',
}
"""What takes most of a direction's time, and less of it: no test here looks at what the numbers are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class House:
    """A state folder of its own, and the command that works in it."""

    state: Path
    lab: Path
    settings: Mapping[str, str] = field(default_factory=dict)

    def environment(self) -> dict[str, str]:
        """Return the environment of a command that works in this house."""
        return {
            **os.environ,  # noqa: TID251 - a command inherits what a person has, less what conftest cleaned
            "FUMEHOOD_STATE_DIR": str(self.state),
            "FUMEHOOD_LAB_DIR": str(self.lab),
            **self.settings,
        }

    def call(
        self, *arguments: str, timeout: float = 1200, before: tuple[str, ...] = (), said: str = ""
    ) -> subprocess.CompletedProcess[str]:
        """Run `fumehood ...` to its end, with these words on its standard input."""
        return subprocess.run(
            [*before, *COMMAND, *arguments],
            env=self.environment(),
            capture_output=True,
            text=True,
            timeout=timeout,
            input=said,
        )

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Start `fumehood ...` as the leader of a process group of its own."""
        return subprocess.Popen(
            [*COMMAND, *arguments],
            env=self.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def left(self) -> list[str]:
        """Return what of this house is still on the machine: mounts, cgroups, processes, executions."""
        mark = self.state / "installation"
        if not mark.exists():
            return []
        name = mark.read_text().strip()
        mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines() if f"/{name}/fh-" in line]
        hierarchy = cgroups.find()
        groups = sorted(cgroups.names(hierarchy, name)) if hierarchy else []
        executions = [str(path) for path in (self.state / "executions").glob("fh-*")]
        return [*mounts, *groups, *executions, *self.processes()]

    def processes(self) -> list[str]:
        """Return the processes that name this house's state folder."""
        found = []
        for place in Path("/proc").glob("[0-9]*"):
            try:
                words = (place / "cmdline").read_bytes() + (place / "environ").read_bytes()
            except OSError:
                continue
            if str(self.state).encode() in words and int(place.name) != os.getpid():
                found.append(place.name)
        return found


@pytest.fixture(scope="session")
def make_house(tmp_path_factory: pytest.TempPathFactory, lab_dir: Path) -> Any:
    """Make a house with an empty state folder."""

    def make(name: str, **settings: str) -> House:
        return House(state=tmp_path_factory.mktemp(name), lab=lab_dir, settings=settings)

    return make


@pytest.fixture(scope="session")
def house(make_house: Any) -> House:
    """The house in which the finished folder was made."""
    found: House = make_house("house")
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Demo:
    """A finished folder and what the command said."""

    asked: tuple[str, ...]
    out: Path
    told: dict[str, Any]
    lines: str

    @property
    def experiments(self) -> list[Path]:
        """The folders of the experiments, in the order they were carried out."""
        return [self.out / "experiments" / line["name"] for line in self.told["summary"]["experiments"]]


@pytest.fixture(scope="session")
def demo(house: House, small_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Demo:
    """One direction of the demo's kind, carried out by the real command in real sandboxes."""
    asked, out = ("run", "--template", str(small_template), *OFFLINE), tmp_path_factory.mktemp("demo") / "out"
    done = house.call(*asked, "--ideas", "2", "--runs", "2", "--out", str(out), "--json")
    assert done.returncode == 0, done.stderr[-3000:]
    return Demo(asked=asked, out=out, told=json.loads(done.stdout), lines=done.stderr)


@pytest.fixture(scope="session")
def small_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped template with less training."""
    made = tmp_path_factory.mktemp("templates") / TEMPLATE.name
    shutil.copytree(TEMPLATE, made, ignore=shutil.ignore_patterns("__pycache__"))
    settings = (made / "template.toml").read_text()
    for shipped, smaller in SMALLER.items():
        assert settings.count(shipped) == 1
        settings = settings.replace(shipped, smaller)
    # Two threads wait for each other with busy processors, where others run beside them.
    (made / "template.toml").write_text(settings.replace("cpus = 2.0", "cpus = 1.0"))
    return made


@pytest.fixture(scope="session")
def slow_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A template whose executions last some seconds in which the processor is free for others."""
    return write_quick_template(tmp_path_factory.mktemp("slow"), lasts_s=3.0)


def again(house: House, folder: Path, *options: str) -> tuple[int, dict[str, Any]]:
    done = house.call("replay", str(folder), *options, "--json")
    return done.returncode, json.loads(done.stdout)


def substance(out: Path) -> dict[str, Any]:
    """Return what of a finished folder hangs on no clock and on no secret of its installation.

    Those are ideas, code, what was measured of what, and the papers' parts.
    """
    found: dict[str, Any] = {}
    for idea in json.loads((out / "ideas.json").read_text()):
        found[f"idea {idea['name']}"] = {key: idea[key] for key in ("title", "experiment", "novelty")}
    for folder in sorted((out / "experiments").iterdir()):
        for path in sorted(folder.glob("*.py")):
            found[f"{folder.name}/{path.name}"] = path.read_text()
        for path in sorted(folder.glob("run_*/final_info.json")):
            told = json.loads(path.read_text())
            found[f"{folder.name}/{path.parent.name}"] = {data: sorted(of["means"]) for data, of in told.items()}
        (paper,) = folder.glob("latex/*.tex")
        found[f"{folder.name}/paper"] = re.findall(r"\\(?:sub)?section\{[^}]*\}", paper.read_text())
    return found
