"""What every test gets: an environment without the user's settings and, where it asks, the lab's Python and a Redis."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings
from xdist.scheduler import LoadFileScheduling
from xdist.workermanage import WorkerController

from fumehood.cli.servers import lasting_port, redis_server
from fumehood.settings import Settings
from tests.fakes import warm_python as warm
from tests.fakes.postgres import PostgresServer, postgres_server
from tests.leaks import left_by_all, remove_empty_run_folders
from tests.object_stores import ObjectStore

OURS = Settings()
"""The user's own settings, read before a test's environment is cleaned: they say where the lab was built."""
PRIVATE = ("FUMEHOOD_", "ANTHROPIC_", "AWS_", "DEEPSEEK_", "GOOGLE_", "OPENAI_", "OPENROUTER_")
DOCKERD_LOG = os.environ.get("DOCKERD_OF_TESTS", "")
"""Where the engine writes that `scripts/with_docker` started for these tests alone; empty where it is somebody's."""
ESCAPE = Path(__file__).parent / "escape"

# How long an example takes says nothing where others use the processors.
hypothesis_settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])
hypothesis_settings.load_profile("unhurried")


TOGETHER = frozenset({"test_demo.py", "test_faults.py", "test_replay.py"})
"""Files of tests that share what is dear to make, and look at what others leave there: one process has them all."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(ESCAPE):
            item.add_marker("escape")


DEAREST = (
    *("together", "test_real_model.py", "test_rerun.py", "test_images.py", "test_serve.py"),
    *(
        "test_model_drafts.py",
        "test_write_a_template.py",
        "test_chaos.py",
        "test_ideas.py",
        "test_restarts.py",
        "test_kill.py",
    ),
)
"""What takes a minute and more, the longest first."""
APART = frozenset({"test_serve.py", "test_model_drafts.py", "test_write_a_template.py"})
"""Files whose tests share nothing and take long, so that each may go to another process."""


class ByFiles(LoadFileScheduling):
    """Spreads files of tests over processes, and begins with those that all would wait for in the end."""

    def _split_scope(self, nodeid: str) -> str:
        file: str = super()._split_scope(nodeid)
        name = Path(file).name
        return "together" if name in TOGETHER else nodeid if name in APART else file

    def _assign_work_unit(self, node: WorkerController) -> None:
        self.workqueue.move_to_end(min(self.workqueue, key=_turn), last=False)
        super()._assign_work_unit(node)


def _turn(scope: str) -> tuple[int, bool]:
    name = Path(scope.split("::", 1)[0]).name
    place = DEAREST.index(name) if name in DEAREST else len(DEAREST)
    # Of the others a direction takes longest.
    return place, not scope.startswith("tests/e2e/")


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByFiles | None:
    return ByFiles(config, log) if config.getvalue("dist") == "loadfile" else None


@pytest.fixture(scope="session", autouse=True)
def leak_counter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Whatever was tested, no installation of this session leaves anything on the machine; others are not looked at."""
    below = tmp_path_factory.getbasetemp()
    yield
    found = left_by_all(below)
    remove_empty_run_folders(below)
    if found:
        pytest.fail(f"left on this machine by installations of this session:\n{json.dumps(found, indent=2)}")


@pytest.fixture(scope="session", autouse=True)
def clean_environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No key and no setting of the user reaches a test, and none writes into the user's state."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(PRIVATE)]:
            patch.delenv(name)
        patch.setenv("FUMEHOOD_STATE_DIR", str(tmp_path_factory.mktemp("state")))
        yield


@pytest.fixture(scope="session", autouse=True)
def heard_signals() -> None:
    """What starts the tests in the background may ignore some signals; every program that a test starts would, too."""
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)


@pytest.fixture(scope="session")
def lab_dir() -> Path:
    """The lab that `make setup` built: `site-packages/` and `lab.json`. It is read only."""
    folder = (OURS.lab_dir or OURS.state_dir / "lab/current").resolve()
    if not (folder / "lab.json").is_file():
        pytest.fail(f"no lab at {folder}; run `make setup`")
    return folder


@pytest.fixture(scope="session")
def lab_python(lab_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program that starts the lab's interpreter with the lab's packages, outside any sandbox."""
    interpreter = json.loads((lab_dir / "lab.json").read_text(encoding="utf-8"))["python"]
    folder = tmp_path_factory.mktemp("lab")
    return write_program(
        folder / "python",
        f"export PYTHONPATH={shlex.quote(str(lab_dir / 'site-packages'))} PYTHONDONTWRITEBYTECODE=1",
        f"export MPLBACKEND=Agg MPLCONFIGDIR={shlex.quote(str(folder / 'matplotlib'))}",
        f'exec {shlex.quote(interpreter)} -s "$@"',
    )


@pytest.fixture(scope="session")
def warm_python(lab_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The same, for tests of what programs do and not of how they begin: torch is imported once for all of them."""
    folder = tmp_path_factory.mktemp("warm")
    place, program = folder / "socket", Path(warm.__file__)
    command = [lab_python, "-P", program, "serve", place]
    with subprocess.Popen(
        command, env={"PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"}, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as server:
        assert server.stdout is not None
        assert server.stdout.readline() == b"ready\n"
        yield write_program(folder / "python", f'exec {shlex.quote(sys.executable)} -I -S {program} ask {place} "$@"')
        server.communicate(timeout=30)


def write_program(place: Path, *lines: str) -> Path:
    place.write_text("\n".join(["#!/bin/sh", *lines, ""]), encoding="utf-8")
    place.chmod(0o755)
    return place


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Redis server of this session alone, on a port that was free."""
    with redis_server(lasting_port(), tmp_path_factory.mktemp("redis") / "log") as server:
        yield server.url


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL server of this session alone; each test takes a database of its own."""
    with postgres_server(lasting_port()) as server:
        yield server


@pytest.fixture(scope="session")
def object_stores(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], ObjectStore]]:
    """Real S3 servers of this session alone, each started when it is first asked for."""
    started: dict[str, ObjectStore] = {}

    def store(kind: str) -> ObjectStore:
        if kind not in started:
            started[kind] = ObjectStore(kind, tmp_path_factory.mktemp(kind) / "server")
            started[kind].start()
        return started[kind]

    yield store
    for one in started.values():
        one.kill()
