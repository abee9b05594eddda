"""The container engine is restarted, or stalls, in the middle: neighbours go on, the verdict is right, nothing hangs.

Both kill or stop the engine of this machine, so they run only where it was started for the tests: `scripts/with_docker`
says so, and `make test-rest` and `.ci/run` go through it. A person's own engine is left alone, and these are skipped.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from fumehood.domain.execution import Ended, Kind, Limits, Running, Spec, Verdict
from fumehood.domain.ids import container_name
from fumehood.errors import SandboxUnavailableError
from sandbox import cgroups
from tests import leaks
from tests.conftest import DOCKERD_LOG
from tests.e2e.test_supervision import NEVER_S, STUBBORN, Site, judge, until

pytestmark = [
    pytest.mark.kill,
    pytest.mark.alone,
    pytest.mark.local,
    pytest.mark.docker,
    pytest.mark.skipif(not DOCKERD_LOG, reason="this machine's engine is not the tests' own, so it is left alone"),
]
PID_FILE = Path("/var/run/docker.pid")
AWAY_S = 3.0
STALLED_S = 15.0
SOON_S = 8.0
"""So soon whoever asks something of a stalled engine has an answer, or an error."""


def engine() -> int:
    return int(PID_FILE.read_text(encoding="ascii"))


def answers() -> bool:
    return subprocess.run(["docker", "info"], capture_output=True, timeout=120).returncode == 0


def start_engine() -> None:
    # Nobody's child here, as an engine is: it outlives the test, and `scripts/with_docker` ends it.
    started = ["sh", "-c", 'setsid dockerd >>"$0" 2>&1 </dev/null &', DOCKERD_LOG]
    subprocess.run(started, check=True)
    until(answers, 60, "the engine answers again")


@pytest.fixture
def restored() -> Iterator[None]:
    """Whatever a test did to the engine, it goes on afterwards."""
    yield
    if PID_FILE.exists() and Path(f"/proc/{PID_FILE.read_text(encoding='ascii').strip()}").exists():
        os.kill(engine(), signal.SIGCONT)
    else:
        start_engine()


@pytest.fixture
def sites(tmp_path: Path) -> Iterator[tuple[Site, Site]]:
    """One installation on Docker, and a neighbour that needs none."""
    made = Site.make(tmp_path / "docker", "docker"), Site.make(tmp_path / "local", "local")
    yield made
    for site in made:
        site.store.close()
        leaks.remove_empty_run_folders(site.settings.state_dir)


@pytest.mark.usefixtures("restored")
def test_an_engine_that_is_killed_and_started_again_costs_nobody_a_verdict(sites: tuple[Site, Site]) -> None:
    site, neighbour = sites
    with site.keep() as kept, neighbour.keep() as other:
        until(lambda: site.has_begun("running") or site.is_over(), NEVER_S, "it runs")
        os.kill(engine(), signal.SIGKILL)
        time.sleep(AWAY_S)
        start_engine()

        def are_over() -> bool:
            # Without an engine a process of the run side cannot begin; each is tried again after a pause.
            kept.check()
            other.check()
            return bool(site.is_over() & neighbour.is_over())

        until(are_over, NEVER_S, "all ended")
        # What the engine took along is lost, and tried again.
        assert judge(site, ["shim"] * 2) == ""
        assert judge(neighbour, []) == ""


@pytest.mark.usefixtures("restored")
def test_an_engine_that_stalls_keeps_no_deadline_from_being_held(tmp_path: Path) -> None:
    from sandbox import docker_engine
    from sandbox.docker import DockerSandbox
    from sandbox.lab import find

    state = tmp_path / "state"
    state.mkdir()
    sandbox = DockerSandbox(docker_engine.connect(), state, leaks.RUN_DIR, {**find(state)})
    limits = Limits(wall_s=4.0, memory_mib=64, storage_mib=16, processes=32)
    name = container_name("exec_00000000000000000000000001")  # type: ignore[arg-type]
    sandbox.launch(Spec(name=name, kind=Kind.RUN, command=("python3", "-c", STUBBORN), image="plain", limits=limits))
    try:
        groups = cgroups.find()
        assert groups is not None
        os.kill(engine(), signal.SIGSTOP)
        stalled_at = time.monotonic()
        while time.monotonic() - stalled_at < STALLED_S:
            asked = time.monotonic()
            # It may be said that the engine does not answer; what may not be is that nothing is said.
            with suppress(SandboxUnavailableError):
                sandbox.inspect(name)
            assert time.monotonic() - asked < SOON_S
            time.sleep(0.2)
        # The engine has not moved since, and yet nothing of it runs.
        assert not running_below(groups, sandbox.installation, name)
        os.kill(engine(), signal.SIGCONT)
        until(lambda: not isinstance(sandbox.inspect(name), Running), 60, "its end is known")
        ended = sandbox.inspect(name)
        assert isinstance(ended, Ended)
        assert ended.verdict is Verdict.TIMED_OUT
    finally:
        if Path(f"/proc/{engine()}").exists():
            os.kill(engine(), signal.SIGCONT)
        sandbox.remove(name)
    assert leaks.left(state) == {}


def running_below(groups: cgroups.Hierarchy, installation: str, name: str) -> list[str]:
    """Return the processes in the control groups of an execution, the engine's own ones included."""
    found = []
    for root in groups.roots:
        for place in (root / cgroups.TOP / installation / name).rglob("cgroup.procs"):
            found += place.read_text(encoding="ascii").split()
    return found
