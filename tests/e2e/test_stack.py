"""compose.yaml for real: brought up, given a direction, read over HTTP, and taken down without a trace."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest

from fumehood.cli.servers import lasting_port
from fumehood.settings import Settings
from sandbox import cgroups, kernel
from sandbox.choose import choose
from tests.stack import images

pytestmark = [pytest.mark.slow, pytest.mark.docker, pytest.mark.alone, pytest.mark.timeout(1500)]
ROOT = Path(__file__).parents[2]
ASKED = {"template": "2d_diffusion", "profile": "tiny", "model": "offline", "ideas": 1, "runs": 1}
DONE_WITHIN_S = 600.0
CALLING = "import socket,sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 3)"


class Stack:
    """One project of Docker Compose, with folders, secrets and a port of its own."""

    def __init__(self, folder: Path, lab: Path) -> None:
        self.project = f"fumehood-test-{os.getpid()}"
        self.state, self.secrets = folder / "state", folder / "secrets"
        # Sandboxes run as users of their own, who must get through every folder above.
        self.run_dir = Path(mkdtemp(prefix="fumehood-stack-", dir="/run"))
        self.run_dir.chmod(0o711)
        self._address = f"127.0.0.1:{lasting_port()}"
        self._lab = lab
        self._images: dict[str, str] = {}

    def environment(self) -> dict[str, str]:
        return {
            **os.environ,  # noqa: TID251 - docker is found and reached as for a person
            **self._images,
            "COMPOSE_PROJECT_NAME": self.project,
            "FUMEHOOD_SECRETS": str(self.secrets),
            "FUMEHOOD_STATE_DIR": str(self.state),
            "FUMEHOOD_RUN_DIR": str(self.run_dir),
            "FUMEHOOD_LAB_DIR": str(self._lab),
            "FUMEHOOD_PUBLISH": self._address,
        }

    def build(self) -> None:
        self._images = images.ensure()
        # Those of executions are the host's own, found by the lab that they were made for.
        self._call([sys.executable, "-m", "sandbox.image"], timeout=600)

    def do(self, *words: str) -> None:
        """Do what `make up` and `make down` do."""
        self._call([sys.executable, "-B", "scripts/stack.py", *words], timeout=300)

    def inside(self, service: str, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command in a service's container."""
        found = self.containers(f"com.docker.compose.service={service}")
        return subprocess.run(["docker", "exec", *found, *command], capture_output=True, text=True, timeout=60)

    def containers(self, label: str) -> list[str]:
        mine = f"label=com.docker.compose.project={self.project}"
        return told("docker", "ps", "-aq", "--filter", mine, "--filter", f"label={label}")

    def curl(self, path: str, *words: str) -> bytes:
        key = (self.secrets / "fumehood_api_key").read_text(encoding="utf-8")
        command = ["curl", "--silent", "--show-error", "--fail-with-body", "--max-time", "30", "--config", "-"]
        command += [*words, f"http://{self._address}{path}"]
        # Over standard input, since the key would stand in the list of processes.
        header = f'header = "Authorization: Bearer {key}"\n'.encode()
        done = subprocess.run(command, input=header, capture_output=True)
        assert done.returncode == 0, (done.stdout + done.stderr).decode(errors="replace")
        return done.stdout

    def read(self, path: str) -> Any:
        return json.loads(self.curl(path))

    def carried_out(self, direction: str) -> None:
        """Wait until a direction is done."""
        deadline = time.monotonic() + DONE_WITHIN_S
        while (found := self.read(f"/v1/directions/{direction}"))["state"] not in {"done", "failed"}:
            if time.monotonic() > deadline:
                pytest.fail(f"it is {found['state']} after {DONE_WITHIN_S} s\n{self.logs()}")
            time.sleep(1)
        assert (found["state"], found["error"]) == ("done", ""), f"{found['error']}\n{self.logs()}"

    def logs(self) -> str:
        """Return the last words of every service."""
        names = told("docker", "ps", "-a", "--filter", f"label=com.docker.compose.project={self.project}", "-q")
        ended = [
            subprocess.run(["docker", "logs", "--tail", "20", name], capture_output=True, text=True) for name in names
        ]
        return "\n".join(one.stdout + one.stderr for one in ended)

    def left(self) -> dict[str, list[str]]:
        """Return what there still is of it on this machine."""
        mine = ("--filter", f"label=com.docker.compose.project={self.project}")
        ours = ("--filter", f"label=fumehood.installation={self.installation}")
        groups = cgroups.find()
        below = [mount.target for folder in (self.state, self.run_dir) for mount in kernel.mounts(folder)]
        found = {
            "containers": [*told("docker", "ps", "-aq", *mine), *told("docker", "ps", "-aq", *ours)],
            "volumes": told("docker", "volume", "ls", "-q", *mine),
            "networks": told("docker", "network", "ls", "-q", *mine),
            "mounts": [str(place) for place in below if place not in {self.state, self.run_dir}],
            "loops": [str(device) for device in kernel.loops(self.state)],
            "cgroups": sorted(cgroups.names(groups, self.installation)) if groups else [],
            "executions": [path.name for path in (self.state / "executions").glob("fh-*")],
        }
        return {kind: things for kind, things in found.items() if things}

    @cached_property
    def installation(self) -> str:
        """The id of what the run side makes."""
        return (self.state / "installation").read_text(encoding="ascii").strip()

    def end(self) -> None:
        """Take down what a failed test left, and the two mounts that only the next boot would take away."""
        self.do("down", "--volumes", "--timeout", "5")
        if (self.state / "installation").exists():
            # Executions outlive who started them, and nobody is left to end them.
            settings = Settings(state_dir=self.state, run_dir=self.run_dir, lab_dir=self._lab)
            choose("docker", settings).reap(older_than_s=0)
        for folder in (self.run_dir, self.state):
            for mount in reversed(kernel.mounts(folder)):
                kernel.unmount(mount.target, lazily=True)
        subprocess.run(["rm", "-rf", "--one-file-system", self.run_dir], check=True)

    def _call(self, command: Sequence[str], timeout: float) -> None:
        done = subprocess.run(
            command, cwd=ROOT, env=self.environment(), capture_output=True, text=True, timeout=timeout
        )
        assert done.returncode == 0, f"{done.stdout[-3000:]}{done.stderr[-6000:]}\n{self.logs()}"


def told(*command: str) -> list[str]:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()


@pytest.fixture
def stack(tmp_path: Path, lab_dir: Path) -> Iterator[Stack]:
    made = Stack(tmp_path, lab_dir)
    made.build()
    try:
        yield made
    finally:
        made.end()


def test_the_stack_carries_a_direction_out_and_leaves_nothing(stack: Stack) -> None:
    stack.do("up", "--no-build")
    direction = json.loads(stack.curl("/v1/directions", "--json", json.dumps(ASKED)))["id"]
    what_each_may_do(stack)
    stack.carried_out(direction)
    (experiment,) = stack.read(f"/v1/directions/{direction}/experiments")["items"]
    assert stack.curl(f"/v1/experiments/{experiment['id']}/paper").startswith(b"%PDF-")
    (key,) = stack.read("/v1/signing-keys")["items"]
    runs = stack.read(f"/v1/experiments/{experiment['id']}/runs")["items"]
    records = [stack.read(f"/v1/runs/{run['id']}/record") for run in runs]
    assert records
    assert {one["keyid"] for record in records for one in record["signatures"]} == {key["id"]}
    # What is thrown away need not be closed in peace.
    stack.do("down", "--volumes", "--timeout", "5")
    assert stack.left() == {}


def what_each_may_do(stack: Stack) -> None:
    """Look inside: the ways that compose.yaml leaves open are open, and the others are not."""
    for service, host, port, reached in (
        ("write-worker", "gateway", "8010", True),
        ("write-worker", "minio", "9000", True),
        ("write-worker", "minio", "8888", False),
        ("write-worker", "minio", "9333", False),
        ("write-worker", "192.0.2.1", "443", False),
        ("write-worker", "api", "8010", False),
        ("api", "192.0.2.1", "443", False),
        ("run-worker", "postgres", "5432", True),
        ("run-worker", "192.0.2.1", "443", False),
    ):
        called = stack.inside(service, "python", "-c", CALLING, host, port)
        assert (called.returncode == 0) == reached, (service, host, port, called.stderr)
    for service in ("api", "gateway", "write-worker"):
        assert stack.inside(service, "id", "-u").stdout.strip() == "10001"
        assert stack.inside(service, "ls", "/var/run/docker.sock").returncode != 0
        assert "Read-only" in stack.inside(service, "touch", "/opt/fumehood/x").stderr
    for service in ("write-worker", "run-worker", "watcher", "api"):
        assert "anthropic_api_key" not in stack.inside(service, "ls", "/run/secrets").stdout
