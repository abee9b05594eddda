"""Each adapter of a port, and the machine seen from outside before and after it was used."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from ulid import ULID

from fumehood.domain.execution import Ended, Input, Kind, Limits, Outcome, Running, Spec
from fumehood.ports import Sandbox
from sandbox import cgroups, machine, records
from sandbox.execute import execute
from sandbox.fake import FakeSandbox
from sandbox.host import HostSandbox
from sandbox.lab import find
from sandbox.local import LocalSandbox
from tests.leaks import RUN_DIR, left, recorded

ADAPTERS = [
    pytest.param("fake"),
    pytest.param("local", marks=pytest.mark.local),
    pytest.param("docker", marks=pytest.mark.docker),
]
"""Another adapter is one more line here, one branch in `build`, and its own `known_failures`."""

PATIENCE_S = 60.0
"""How long something that comes within a second is waited for, where others use the processors."""
_NOT_ISOLATED = "the fake isolates nothing"
_OTHERWISE = "it is otherwise with a container; tests/contract/test_docker.py says how"
known_failures: Mapping[tuple[str, str], str] = {
    ("fake", "test_a_fork_bomb_ends_and_its_neighbour_does_not_notice"): "it would have to be outrun by polling",
    ("fake", "test_a_child_out_of_memory_is_told_but_not_the_verdict"): "memory is polled and the whole tree ended",
    ("fake", "test_many_small_files_end_it"): "files are not counted, only their bytes",
    ("fake", "test_nothing_of_the_network_is_reached"): _NOT_ISOLATED,
    ("fake", "test_what_is_not_the_workspace_is_read_only"): _NOT_ISOLATED,
    ("fake", "test_it_is_nobody_seen_from_the_host"): _NOT_ISOLATED,
    ("fake", "test_nothing_secret_is_readable"): _NOT_ISOLATED,
    ("fake", "test_data_of_the_workspace_are_where_programs_look_above_it"): "its workspace lies deep in a folder",
    ("fake", "test_the_environment_is_what_was_asked"): "the fake marks its processes by a variable",
    ("fake", "test_the_kernel_is_small"): _NOT_ISOLATED,
    ("fake", "test_the_processor_is_shared"): _NOT_ISOLATED,
    ("fake", "test_the_disk_is_never_promised_twice"): "storage is polled, not set aside",
    ("fake", "test_a_killed_supervisor_is_a_loss"): "its supervisor is a thread of this process",
    ("fake", "test_another_process_sees_the_same"): "its state is in memory",
    ("fake", "test_it_outlives_whoever_launched_it"): "its state is in memory",
    ("fake", "test_the_young_are_spared_unless_nobody_will_ask_for_them"): "its state is in memory",
    ("fake", "test_an_interrupted_launch_is_lost_or_done_again"): "its state is in memory",
    ("fake", "test_reaping_touches_only_its_own"): "its state is in memory",
    ("fake", "test_an_image_that_is_not_installed_is_refused"): "it has every image",
    ("fake", "test_a_program_that_relaunches_itself_ends_with_it"): "a program may drop the variable that marks it",
    ("docker", "test_it_is_nobody_seen_from_the_host"): _OTHERWISE,
    ("docker", "test_nothing_secret_is_readable"): _OTHERWISE,
    ("docker", "test_a_killed_supervisor_is_a_loss"): _OTHERWISE,
    ("docker", "test_it_outlives_whoever_launched_it"): _OTHERWISE,
    ("docker", "test_the_young_are_spared_unless_nobody_will_ask_for_them"): "both adapters ask the same record",
}


def build(adapter: str, state_dir: Path, **asked: Any) -> Sandbox:
    """Return a sandbox of one kind, or fail with what this machine lacks: nothing is skipped silently."""
    if adapter == "fake":
        return FakeSandbox(state_dir)
    if adapter == "docker":
        from sandbox import docker_engine
        from sandbox.docker import DockerSandbox

        return DockerSandbox(docker_engine.connect(), state_dir, RUN_DIR, {**find(state_dir)}, **asked)
    lacks = machine.lacks(cgroups.find())
    if lacks:
        pytest.fail(" ".join(f"{lack.sentence} {lack.remedy}" for lack in lacks))
    return LocalSandbox(state_dir, RUN_DIR, {**find(state_dir)}, **asked)


@dataclass
class Bench:
    """A sandbox, the folder its test may use, and short words for what tests do with it."""

    adapter: str
    sandbox: Sandbox
    folder: Path
    names: list[str] = field(default_factory=list)

    def build(self, state_dir: Path) -> Sandbox:
        return build(self.adapter, state_dir)

    def left(self, state_dir: Path) -> dict[str, list[str]]:
        return {**recorded(state_dir), **left(state_dir)}

    def until(self, holds: Callable[[], bool], patience_s: float = PATIENCE_S) -> None:
        until(holds, patience_s)

    @property
    def state_dir(self) -> Path:
        return self.folder / "state"

    def spec(self, *command: str, files: Mapping[str, str | bytes] | None = None, **asked: Any) -> Spec:
        limits = {"wall_s": 120.0, "memory_mib": 256, "storage_mib": 32, "processes": 64}
        limits |= {name: asked.pop(name) for name in list(asked) if name in Limits.__slots__}
        name = asked.pop("name", f"fh-{ULID()}".lower())
        self.names.append(name)
        inputs = tuple(self.input(path, text) for path, text in (files or {}).items())
        asked = {"kind": Kind.RUN, "image": "plain", **asked}
        return Spec(name=name, command=command, inputs=inputs, limits=Limits(**limits), **asked)

    def input(self, path: str, text: str | bytes) -> Input:
        data = text.encode() if isinstance(text, str) else text
        digest = hashlib.sha256(data).hexdigest()
        source = self.folder / "sources" / digest
        source.parent.mkdir(exist_ok=True)
        source.write_bytes(data)
        return Input(path=path, sha256=digest, source=str(source))

    def run(self, *command: str, **asked: Any) -> Outcome:
        return execute(self.sandbox, self.spec(*command, **asked), self.folder / "out")

    def python(self, code: str, **asked: Any) -> Outcome:
        files = {"work/program.py": code, **asked.pop("files", {})}
        return self.run("python3", "program.py", files=files, **asked)

    def launch(self, *command: str, **asked: Any) -> str:
        spec = self.spec(*command, **asked)
        self.sandbox.launch(spec)
        return spec.name

    def wait(self, name: str, patience_s: float = PATIENCE_S) -> Ended:
        found: list[Ended] = []

        def ended() -> bool:
            state = self.sandbox.inspect(name)
            if not isinstance(state, Running):
                found.append(state)
            return bool(found)

        until(ended, patience_s)
        return found[0]

    def says(self, name: str, text: bytes, patience_s: float = PATIENCE_S) -> None:
        until(lambda: text in self.sandbox.follow(name), patience_s)


def until(holds: Callable[[], bool], patience_s: float = PATIENCE_S) -> None:
    """Wait for something, and fail when it does not come."""
    deadline = time.monotonic() + patience_s
    while not holds():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


@pytest.fixture(params=ADAPTERS)
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    """A bench on each adapter, in a state folder that only root may enter; nothing may be left of it."""
    test = request.node.originalname
    if reason := known_failures.get((request.param, test)):
        pytest.xfail(reason)
    state_dir = tmp_path / "state"
    state_dir.mkdir(mode=0o700)
    made = Bench(request.param, build(request.param, state_dir), tmp_path)
    yield made
    for name in made.names:
        made.sandbox.remove(name)
    # A process that was just killed is listed for a moment longer.
    with suppress(AssertionError):
        until(lambda: not made.left(state_dir))
    found = made.left(state_dir)
    records_left = records.names(made.sandbox._installation) if isinstance(made.sandbox, HostSandbox) else []
    made.sandbox.reap()
    if isinstance(made.sandbox, HostSandbox):
        with suppress(FileNotFoundError):
            (RUN_DIR / made.sandbox.installation).rmdir()
    assert (found, records_left) == ({}, [])
