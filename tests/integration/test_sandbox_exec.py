"""`fumehood sandbox exec` and `reap`, as a person or a script calls them."""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fumehood.domain.direction import Direction, DirectionState
from fumehood.domain.execution import ExecutionState, Kind, Limits, Spec
from fumehood.domain.experiment import Execution
from fumehood.domain.ids import DirectionId, ExecutionId, TenantId, container_name
from fumehood.settings import Settings
from fumehood.store.clock import SystemClock
from sandbox import cgroups, kernel, uids
from sandbox import installation as installations
from sandbox.choose import choose
from sandbox.storage.choose import Storage, Wanted
from worker import worlds

pytestmark = pytest.mark.local

ROOT = Path(__file__).parents[2]
RUN_DIR = Path("/run/fumehood")
SMALL = ("--adapter", "local", "--memory", "128", "--storage", "16", "--wall", "20")


class Shell:
    """The command on a state folder of its own, with a workspace beside it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.state_dir, self.workspace, self.out = folder / "state", folder / "workspace", folder / "out"
        self.workspace.mkdir()
        self.settings: dict[str, str] = {}

    def start(self, *words: str) -> subprocess.Popen[str]:
        environment = {"PATH": "/usr/bin:/bin", "FUMEHOOD_STATE_DIR": str(self.state_dir), "PYTHONPATH": str(ROOT)}
        environment |= self.settings
        command = [sys.executable, "-m", "fumehood.cli.sandbox", *words]
        return subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=self.folder
        )

    def call(self, *words: str) -> tuple[int, Any, str]:
        with self.start(*words) as process:
            said, complained = process.communicate(timeout=60)
        return process.returncode, json.loads(said) if said else None, complained

    def exec(self, *command: str, options: tuple[str, ...] = ()) -> tuple[int, Any, str]:
        places = ("--workspace", str(self.workspace), "--out", str(self.out))
        return self.call("exec", *SMALL, *places, *options, "--", *command)

    def left(self) -> list[str]:
        if not (self.state_dir / "installation").exists():
            return []
        home, groups = installations.find(self.state_dir, RUN_DIR), cgroups.find()
        found = [str(mount.target) for mount in kernel.mounts(home.folder)]
        found += [str(device) for device in kernel.loops(self.state_dir)]
        found += uids.claims(RUN_DIR, home.id)
        found += cgroups.names(groups, home.id) if groups else []
        for folder in (home.executions, home.volumes, home.folder):
            found += [path.name for path in folder.iterdir() if path.name != ".lock"] if folder.is_dir() else []
        return found


def until(holds: Callable[[], object], patience_s: float = 15.0) -> None:
    deadline = time.monotonic() + patience_s
    while not holds():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    made = Shell(tmp_path)
    yield made
    if (made.state_dir / "installation").exists():
        found, home = made.left(), installations.find(made.state_dir, RUN_DIR)
        # A test that failed may have left a pool.
        Storage(home, Wanted()).clear()
        assert found == []
        folder = home.folder
        if folder.exists():
            folder.rmdir()


def test_one_command_is_one_json_document(shell: Shell) -> None:
    (shell.workspace / "sub").mkdir()
    (shell.workspace / "sub" / "x.py").write_text(
        "import sys; print('said'); open('r.txt','w').write('1')", encoding="utf-8"
    )
    status, told, _ = shell.exec("python3", "sub/x.py", options=("--collect", "*.txt", "sub/**", "nothing"))
    assert status == 0
    assert {"verdict": "succeeded", "exit_code": 0, "output_tail": "said\n", "rejected": []}.items() <= told.items()
    assert {"wall_s", "cpu_s", "peak_memory_mib", "peak_storage_mib"} <= told.keys()
    digest = hashlib.sha256(b"1").hexdigest()
    assert told["artifacts"][0] == {"path": "r.txt", "bytes": 1, "sha256": digest}
    assert [item["path"] for item in told["artifacts"]] == ["r.txt", "sub/x.py"]
    assert (shell.out / "r.txt").read_text(encoding="utf-8") == "1"


def test_a_failure_of_the_program_is_an_outcome(shell: Shell) -> None:
    status, told, _ = shell.exec("sh", "-c", "echo no >&2; exit 7")
    assert (status, told["verdict"], told["exit_code"], told["output_tail"]) == (0, "failed", 7, "no\n")


def test_limits_are_those_that_were_asked(shell: Shell) -> None:
    status, told, _ = shell.exec("sleep", "20", options=("--wall", "0.3"))
    assert (status, told["verdict"]) == (0, "timed_out")
    status, told, _ = shell.exec("yes", options=("--output-bytes", "2000"))
    assert (told["verdict"], len(told["output_tail"]), told["truncated"]) == ("too_much_output", 2000, True)


def test_the_workspace_is_never_written(shell: Shell) -> None:
    program = shell.workspace / "run.sh"
    program.write_text("#!/bin/sh\necho more >> run.sh; touch new; rm -f run.sh; ls", encoding="utf-8")
    program.chmod(0o755)
    (shell.workspace / "link").symlink_to("run.sh")
    before = program.read_bytes()
    status, told, _ = shell.exec("./run.sh")
    assert (status, told["output_tail"]) == (0, "link\nnew\n")
    assert sorted(path.name for path in shell.workspace.iterdir()) == ["link", "run.sh"]
    assert program.read_bytes() == before


def test_a_link_out_of_the_workspace_is_refused(shell: Shell) -> None:
    (shell.workspace / "secret").symlink_to("/etc/shadow")
    status, told, complaint = shell.exec("cat", "secret")
    assert (status, told) == (2, None)
    assert "secret" in complaint


@pytest.mark.parametrize(
    ("options", "status"),
    [
        (("--network", "allow:llm"), 3),
        (("--network", "allow:example.com"), 2),
        (("--network", "host"), 2),
        (("--memory", "1"), 2),
        (("--memory", "4194304"), 4),
        (("--storage", "4194304"), 3),
        (("--storage", "much"), 2),
        (("--storage", "-1"), 2),
        (("--storage-driver", "zfs"), 2),
        (("--storage", "none", "--storage-driver", "loop"), 2),
        (("--storage-driver", "xfs"), 3),
        (("--max-artifacts", "-1"), 2),
        (("--collect", "../x"), 2),
        (("--adapter", "podman"), 2),
        (("--image", "windows"), 3),
        (("--no-such-option",), 2),
        (("--workspace", "/no/such/folder"), 2),
    ],
)
def test_what_cannot_be_done_is_one_sentence_and_a_status(shell: Shell, options: tuple[str, ...], status: int) -> None:
    got, told, complaint = shell.exec("true", options=options)
    assert (got, told) == (status, None)
    assert complaint.strip()
    assert "Traceback" not in complaint


@pytest.mark.parametrize(
    ("options", "driver", "said"),
    [
        ((), "loop", "ext4 on a loop device"),
        (("--storage-driver", "btrfs"), "btrfs", "a subvolume with a quota group"),
        (("--storage", "none"), "none", "not held"),
        (("--storage-driver", "none"), "none", "not held"),
    ],
)
def test_the_outcome_says_what_held_the_storage(shell: Shell, options: tuple[str, ...], driver: str, said: str) -> None:
    shell.settings = {"FUMEHOOD_STORAGE_POOL_MIB": "128"}
    status, told, complaint = shell.exec("true", options=options)
    assert (status, told["verdict"], told["storage"]) == (0, "succeeded", driver), complaint
    assert said in told["isolation"]["S5"]
    shell.call("reap", "--adapter", "local")


def test_every_driver_can_be_tried(shell: Shell) -> None:
    status, told, _ = shell.call("storage")
    assert (status, told["chosen"]) == (0, "loop")
    assert {name: one["holds"] for name, one in told["drivers"].items()} == {"xfs": False, "loop": True, "btrfs": True}
    assert all(one["why"] for one in told["drivers"].values())


@pytest.mark.parametrize(
    ("name", "value", "options", "status"),
    [
        ("CEILINGS__WALL_S", "5", (), 4),
        ("CEILINGS__STORAGE_MIB", "16", ("--storage", "17"), 4),
        ("CEILINGS__STORAGE_MIB", "16", ("--storage", "none"), 4),
        ("CEILINGS__ARTIFACTS", "10", (), 4),
        ("CEILINGS__ARTIFACTS", "10", ("--max-artifacts", "10"), 0),
        ("CEILINGS__CPUS", "none", (), 2),
        ("CEILINGS__CPUSS", "1", (), 2),
        ("STORAGE", "zfs", (), 2),
    ],
)
def test_an_admin_sets_what_may_be_asked(
    shell: Shell, name: str, value: str, options: tuple[str, ...], status: int
) -> None:
    shell.settings = {f"FUMEHOOD_{name}": value}
    got, _, complaint = shell.exec("true", options=options)
    assert got == status, complaint
    assert "Traceback" not in complaint
    if status == 2:
        assert f"FUMEHOOD_{name}" in complaint


def test_what_has_no_room_waits_and_can_be_interrupted(shell: Shell) -> None:
    shell.settings = {"FUMEHOOD_STORAGE": "btrfs", "FUMEHOOD_STORAGE_POOL_MIB": "128"}
    words = ("exec", *SMALL, "--storage", "64", "--workspace", str(shell.workspace), "--out", str(shell.out), "--")
    with shell.start(*words, "sleep", "20") as first:
        until(lambda: any(shell.state_dir.glob("executions/*/started.json")))
        with shell.start(*words, "true") as second, shell.start(*words, "true") as third:
            for one in (second, third):
                assert one.stderr
                assert one.stderr.readline().startswith("waiting for room: A volume of 65 MiB does not fit")
            third.send_signal(signal.SIGINT)
            assert (third.communicate(timeout=10)[0], third.returncode) == ("", 130)
            first.send_signal(signal.SIGINT)
            said, complained = second.communicate(timeout=30)
        assert (json.loads(said)["verdict"], complained) == ("succeeded", "")
    assert shell.call("reap", "--adapter", "local")[0] == 0
    assert not (RUN_DIR / f"{installations.find(shell.state_dir, RUN_DIR).id}.pool").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_cleans_up(shell: Shell, number: signal.Signals) -> None:
    places = ("--workspace", str(shell.workspace), "--out", str(shell.out))
    with shell.start("exec", *SMALL, *places, "--", "sleep", "20") as process:
        until(lambda: any(shell.state_dir.glob("executions/*/started.json")))
        process.send_signal(number)
        said, complained = process.communicate(timeout=10)
    assert (process.returncode, said) == (130, "")
    assert "stopped and removed" in complained
    assert shell.left() == []


def test_what_a_dead_worker_left_is_reaped(shell: Shell) -> None:
    places = ("--workspace", str(shell.workspace), "--out", str(shell.out))
    with shell.start("exec", *SMALL, *places, "--", "sleep", "20") as process:
        until(lambda: any(shell.state_dir.glob("executions/*/started.json")))
        name = next(shell.state_dir.glob("executions/*")).name
        why = {name: "the process that launched it lives"}
        told = {"removed": [], "kept": [name], "things": {}, "reasons": why}
        assert shell.call("reap", "--adapter", "local") == (0, told, "")
        process.kill()
    assert name in shell.left()
    status, told, complaint = shell.call("reap", "--adapter", "local")
    assert (status, told["removed"], told["kept"], told["reasons"], complaint) == (0, [name], [], {}, "")
    assert {"state", "process", "mount", "volume", "user id", "control group"} <= set(told["things"][name])
    assert shell.left() == []


def test_what_a_living_watcher_follows_is_kept(shell: Shell) -> None:
    """Whoever launched it may have died: the row says that it is wanted, and the watcher sees to it."""
    settings = Settings(state_dir=shell.state_dir)
    worlds.prepare_state(settings)
    clock, store = SystemClock(), worlds.store_of(settings)
    direction = Direction(
        id=DirectionId(clock.new_id("dir")), tenant=TenantId("t"), template="t", text="", model="m", review_model="m",
        profile="tiny", ideas=1, runs=1, state=DirectionState.RUNNING,
    )  # fmt: skip
    execution = Execution(
        id=ExecutionId(clock.new_id("exec")), direction_id=direction.id, kind=Kind.RUN, image="plain",
        command=("sleep", "30"), state=ExecutionState.LAUNCHED,
    )  # fmt: skip
    with store.begin() as tx:
        tx.directions.save(direction)
        tx.executions.save(execution)
    store.close()
    name = container_name(execution.id)
    sandbox = choose("local", settings)
    limits = Limits(wall_s=60, memory_mib=64, storage_mib=16, processes=16)
    labels = {"execution": execution.id}
    spec = Spec(name=name, kind=Kind.RUN, image="plain", command=("sleep", "30"), limits=limits, labels=labels)
    sandbox.launch(spec)
    with worlds.only_one(settings.state_dir / "watcher.lock"):
        told = shell.call("reap", "--adapter", "local")[1]
    assert (told["removed"], told["reasons"]) == ([], {name: "a process of this installation watches it"})
    assert shell.call("reap", "--adapter", "local")[1]["removed"] == [name]


def test_without_root_it_says_how_to_get_it(shell: Shell) -> None:
    code = f"""
import os
from pathlib import Path
from fumehood.domain.execution import Kind, Spec
from fumehood.errors import SandboxUnavailableError
from sandbox.local import LocalSandbox
sandbox = LocalSandbox(Path({str(shell.state_dir)!r}), Path("/run/fumehood"))
os.setuid(65534)
try:
    sandbox.launch(Spec(name="fh-" + "0" * 26, kind=Kind.RUN, command=("true",), image="plain"))
except SandboxUnavailableError as error:
    print(error.reason, error.exit_status, error)
print([one for one in sandbox.capabilities() if one.held])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout == (
        "no_root 3 The local sandbox needs root for volumes and control groups. Run it with sudo.\n[]\n"
    ), done.stderr
