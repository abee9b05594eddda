"""What a container keeps in its own way, and how it fares when those around it are killed or meddle."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from fumehood.domain.execution import Running, Verdict
from fumehood.errors import ConflictError, NotFoundError, SandboxUnavailableError
from sandbox import cgroups, records, uids

if TYPE_CHECKING:
    from tests.contract.conftest import Bench

pytestmark = pytest.mark.parametrize("bench", [pytest.param("docker", marks=pytest.mark.docker)], indirect=True)
RUN_DIR = Path("/run/fumehood")


def client(bench: Bench) -> Any:
    return bench.sandbox._engine.client  # type: ignore[attr-defined]


def supervisor(bench: Bench, name: str) -> int:
    told = (bench.state_dir / "executions" / name / "shim.json").read_text(encoding="utf-8")
    return int(re.findall(r"\d+", told)[0])


def kill_supervisor(bench: Bench, name: str) -> None:
    os.kill(supervisor(bench, name), signal.SIGKILL)
    bench.until(lambda: not bench.sandbox._record(name).is_supervised())  # type: ignore[attr-defined]


def has_ended(bench: Bench, name: str) -> Callable[[], bool]:
    return lambda: not client(bench).inspect_container(name)["State"]["Running"]


def test_a_container_is_nobody_seen_from_the_host(bench: Bench) -> None:
    names = [bench.launch("sh", "-c", "id -u; sleep 30") for _ in range(2)]
    seen = []
    for name in names:
        bench.until(lambda name=name: b"\n" in bench.sandbox.follow(name))  # type: ignore[misc]
        uid = bench.sandbox.follow(name).decode().strip()
        pid = client(bench).inspect_container(name)["State"]["Pid"]
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
        assert set(re.findall(r"\d+", re.findall(r"Uid:(.*)", status)[0])) == {uid}
        assert set(re.findall(r"Groups:(.*)", status)[0].split()) <= {uid}
        assert re.findall(r"(?:CapEff|CapBnd|NoNewPrivs|Seccomp):\s+(\w+)", status) == ["0" * 16, "0" * 16, "1", "2"]
        assert int(uid) - uids.FIRST in range(uids.COUNT)
        seen.append(uid)
    assert len(set(seen)) == 2


def test_nothing_secret_is_readable_in_a_container(bench: Bench) -> None:
    canary = bench.state_dir / "canary"
    canary.write_text("secret", encoding="utf-8")
    other = bench.launch("sh", "-c", "echo here > mine; echo on; sleep 30", files={"in/key": "secret"})
    bench.says(other, b"on\n")
    code = f"""
import glob, os
for path in ("/etc/shadow", "/root", "/home", "/proc/1/root/etc/shadow", {str(canary)!r}, "/run", "/var", "/sys",
             "/boot", "/srv", "/opt", "/mnt", "/etc/ssl", "/dev/loop0", "/dev/sda", "/dev/vda", "/dev/kvm",
             "/proc/kcore", "/proc/keys", "/proc/timer_list"):
    try:
        found = os.listdir(path) if os.path.isdir(path) else open(path).read(9)
        if found: print("READ", path, found)
    except OSError: pass
print(sorted(os.listdir("/etc")), open("/etc/hostname").read().strip())
told = glob.glob("/proc/[0-9]*/environ") + glob.glob("/proc/[0-9]*/cmdline")
print(len(told), b"secret" in b"".join(open(path, "rb").read() for path in told))
setuid = [name for top, _, names in os.walk("/") for name in names
          if not top.startswith("/proc") and os.lstat(os.path.join(top, name)).st_mode & 0o6000]
print(setuid)
"""
    lines = bench.python(code).output_tail.splitlines()
    assert lines[0] == "['group', 'hostname', 'hosts', 'mtab', 'passwd', 'resolv.conf'] exp", lines
    assert lines[1:] == ["4 False", "[]"]


def test_the_workspace_gives_no_rights(bench: Bench) -> None:
    outcome = bench.run("sh", "-c", "grep -E ' /(work|in|tmp) ' /proc/mounts", files={"in/x": "x"})
    told = {line.split()[1]: set(line.split()[3].split(",")) for line in outcome.output_tail.splitlines()}
    assert {"rw", "nosuid", "nodev"} <= told["/work"]
    assert {"rw", "nosuid", "nodev"} <= told["/tmp"]
    assert "ro" in told["/in"]


def test_a_program_that_prints_and_ends_at_once_is_capped_too(bench: Bench) -> None:
    name = bench.launch("sh", "-c", "head -c 3M /dev/zero | tr '\\0' x", output_bytes=100_000)
    assert bench.wait(name).verdict == Verdict.TOO_MUCH_OUTPUT
    assert bench.sandbox.follow(name) == b"x" * 100_000


def test_a_killed_supervisor_is_replaced(bench: Bench) -> None:
    name = bench.launch("sh", "-c", "echo first; while ! test -e go; do sleep 0.02; done; echo last", collect=("*",))
    bench.says(name, b"first\n")
    kill_supervisor(bench, name)
    assert isinstance(bench.sandbox.inspect(name), Running)
    assert bench.sandbox._record(name).is_supervised()  # type: ignore[attr-defined]
    (RUN_DIR / bench.sandbox.installation / name / "volume" / "work" / "go").touch()  # type: ignore[attr-defined]
    assert bench.wait(name).verdict == Verdict.SUCCEEDED
    assert bench.sandbox.follow(name) == b"first\nlast\n"


@pytest.mark.parametrize(
    ("code", "verdict"),
    [
        ("print('all'); raise SystemExit(3)", Verdict.FAILED),
        ("held = []\nwhile True: held.append(b'x' * 1_000_000)", Verdict.OUT_OF_MEMORY),
        ("import os\nwhile True:\n if not os.fork(): __import__('time').sleep(2); os._exit(0)", "too_many_processes"),
        ("for n in range(99): open(str(n), 'wb', 0).write(bytes(2**20)) < 2**20 and exit(1)", Verdict.OUT_OF_STORAGE),
    ],
)
def test_the_end_is_found_also_without_a_supervisor(bench: Bench, code: str, verdict: str) -> None:
    files = {"work/program.py": f"import time; time.sleep(0.5)\n{code}"}
    name = bench.launch("python3", "program.py", files=files, memory_mib=64, processes=20)
    kill_supervisor(bench, name)
    bench.until(has_ended(bench, name))
    ended = bench.sandbox.inspect(name)
    assert not isinstance(ended, Running)
    assert ended.verdict == verdict
    assert bench.sandbox.inspect(name) == ended
    if verdict == Verdict.FAILED:
        assert (ended.exit_code, bench.sandbox.follow(name)) == (3, b"all\n")


def test_the_deadline_holds_also_without_a_supervisor(bench: Bench) -> None:
    name = bench.launch("sleep", "30", wall_s=0.5)
    kill_supervisor(bench, name)
    time.sleep(0.6)
    assert bench.wait(name).verdict == Verdict.TIMED_OUT


def test_it_is_stopped_also_without_a_supervisor(bench: Bench) -> None:
    name = bench.launch("sleep", "30")
    kill_supervisor(bench, name)
    bench.sandbox.stop(name, Verdict.CANCELLED)
    bench.until(has_ended(bench, name), 10)
    assert bench.wait(name).verdict == Verdict.CANCELLED


def test_a_hung_supervisor_does_not_keep_it_from_being_stopped(bench: Bench) -> None:
    name = bench.launch("sleep", "30")
    pid = supervisor(bench, name)
    os.kill(pid, signal.SIGSTOP)
    bench.sandbox.stop(name, Verdict.CANCELLED)
    bench.until(has_ended(bench, name), 10)
    os.kill(pid, signal.SIGCONT)
    assert bench.wait(name).verdict == Verdict.CANCELLED


ENDLESS = "import os, time\nwhile True:\n os.write(1, b'x' * 4096)\n time.sleep(0.0005)"


@pytest.mark.parametrize("how", [signal.SIGCONT, signal.SIGKILL])
def test_a_stalled_reader_of_output_holds_nothing_up(bench: Bench, how: signal.Signals) -> None:
    files = {"work/program.py": ENDLESS}
    name = bench.launch("python3", "program.py", files=files, output_bytes=2**30)
    bench.says(name, b"x")
    pid = supervisor(bench, name)
    os.kill(pid, signal.SIGSTOP)
    try:
        # Long enough to fill every buffer between the program and the supervisor.
        time.sleep(1.5)
        neighbour = bench.run("echo", "on")
        assert (neighbour.verdict, neighbour.output_tail) == (Verdict.SUCCEEDED, "on\n")
        bench.sandbox.stop(name, Verdict.CANCELLED)
        # While the supervisor stands still, that is: it would not end for ever.
        bench.until(has_ended(bench, name), 10)
    finally:
        os.kill(pid, how)
    assert bench.wait(name).verdict == Verdict.CANCELLED
    assert set(bench.sandbox.follow(name)) == {ord("x")}


def test_a_gpu_is_passed_in_alone_or_refused_with_nothing_left(bench: Bench) -> None:
    if "nvidia" in bench.sandbox._engine.runtimes:  # type: ignore[attr-defined]
        code = "import glob; print(glob.glob('/dev/nvidia[0-9]*'))"
        assert bench.python(code, gpus=("0",)).output_tail == "['/dev/nvidia0']\n"
        assert bench.python(code).output_tail == "[]\n"
        return
    spec = bench.spec("true", gpus=("0",))
    with pytest.raises(SandboxUnavailableError) as caught:
        bench.sandbox.launch(spec)
    assert caught.value.reason == "gpu_runtime_missing"
    assert "nvidia-ctk runtime configure" in caught.value.remedy
    assert bench.left(bench.state_dir) == {}
    assert client(bench).containers(all=True, filters={"name": spec.name}) == []
    with pytest.raises(NotFoundError):
        bench.sandbox.inspect(spec.name)


def test_a_runtime_that_the_engine_does_not_have_is_said(bench: Bench) -> None:
    from sandbox.docker import DockerSandbox

    engine = bench.sandbox._engine  # type: ignore[attr-defined]
    without = replace(engine, runtimes={"runc": engine.runtimes["runc"]})
    with pytest.raises(SandboxUnavailableError) as caught:
        DockerSandbox(without, bench.state_dir, RUN_DIR, runtime="runsc")
    assert caught.value.reason == "runtime_missing"


def test_a_container_says_whose_it_is(bench: Bench) -> None:
    code = "print(open('/etc/resolv.conf').read() + open('/etc/hosts').read())"
    spec = bench.spec("python3", "-c", code, fence=7, labels={"direction": "dir_1"}, wall_s=90)
    bench.sandbox.launch(spec)
    begun = time.time()
    assert bench.wait(spec.name).verdict == Verdict.SUCCEEDED
    assert bench.sandbox.follow(spec.name).split() == b"# no network 127.0.0.1 localhost exp ::1 localhost".split()
    told = client(bench).inspect_container(spec.name)
    labels = told["Config"]["Labels"]
    assert told["Name"] == f"/{spec.name}"
    assert labels["fumehood.installation"] == bench.sandbox.installation  # type: ignore[attr-defined]
    assert (labels["fumehood.name"], labels["fumehood.fence"]) == (spec.name, "7")
    assert (labels["fumehood.direction"], labels["fumehood.spec"]) == ("dir_1", records.digest(spec))
    deadline = datetime.fromisoformat(labels["fumehood.deadline"]).timestamp()
    assert abs(deadline - begun - 90) < 30
    assert told["HostConfig"]["Runtime"] == "runc"


def test_the_runtime_stands_in_every_record(bench: Bench) -> None:
    assert bench.run("true").isolation["S8"].endswith("; runtime runc")


def test_a_container_outlives_whoever_launched_it(bench: Bench) -> None:
    spec = bench.spec("sh", "-c", "sleep 0.5; echo still here")
    program = f"""
import os
from pathlib import Path
from fumehood.domain.execution import *
from sandbox import docker_engine
from sandbox.docker import DockerSandbox
DockerSandbox(docker_engine.connect(), Path({str(bench.state_dir)!r}), Path("/run/fumehood")).launch({spec!r})
os._exit(9)
"""
    program = program.replace("<Kind.RUN: 'run'>", "Kind.RUN")
    done = subprocess.run([sys.executable, "-c", program], cwd=Path(__file__).parents[2], capture_output=True)
    assert done.returncode == 9, done.stderr
    assert spec.name not in bench.sandbox.held()
    bench.sandbox.launch(spec)
    assert bench.wait(spec.name).verdict == Verdict.SUCCEEDED
    assert bench.sandbox.follow(spec.name) == b"still here\n"


def test_a_container_that_somebody_else_removed_is_lost(bench: Bench) -> None:
    name = bench.launch("sleep", "30")
    kill_supervisor(bench, name)
    client(bench).remove_container(name, force=True)
    assert bench.wait(name).verdict == Verdict.LOST


def test_what_an_interrupted_launch_left_is_taken_back(bench: Bench) -> None:
    spec = bench.spec("echo", "fresh")
    sandbox = bench.sandbox
    labels = {"fumehood.installation": sandbox.installation}  # type: ignore[attr-defined]
    image = sandbox._image("plain").id  # type: ignore[attr-defined]
    client(bench).create_container(image, ["sleep", "30"], name=spec.name, labels=labels)
    sandbox.launch(spec)
    assert bench.wait(spec.name).verdict == Verdict.SUCCEEDED


def test_a_foreign_container_of_that_name_stays(bench: Bench) -> None:
    spec = bench.spec("true")
    image = bench.sandbox._image("plain").id  # type: ignore[attr-defined]
    client(bench).create_container(image, ["sleep", "30"], name=spec.name, labels={"fumehood.installation": "other"})
    try:
        with pytest.raises(ConflictError):
            bench.sandbox.launch(spec)
        assert client(bench).inspect_container(spec.name)["State"]["Status"] == "created"
    finally:
        client(bench).remove_container(spec.name)
    with pytest.raises(NotFoundError):
        bench.sandbox.inspect(spec.name)


def test_nothing_is_left_in_the_engine_or_in_any_hierarchy(bench: Bench) -> None:
    for command in (["true"], ["sh", "-c", "exit 3"]):
        bench.run(*command)
    bench.sandbox.remove(bench.launch("sleep", "30"))
    installation = bench.sandbox.installation  # type: ignore[attr-defined]
    assert client(bench).containers(all=True, filters={"label": f"fumehood.installation={installation}"}) == []
    assert list(cgroups.ROOT.glob(f"*/{cgroups.TOP}/{installation}")) == []
    assert list(cgroups.ROOT.glob(f"{cgroups.TOP}/{installation}")) == []


def test_reaping_finds_a_container_without_a_record(bench: Bench) -> None:
    name = bench.launch("sleep", "30")
    bench.sandbox._record(name).erase()  # type: ignore[attr-defined]
    assert bench.sandbox.reap() == (name,)
    assert client(bench).containers(all=True, filters={"name": name}) == []


def test_fewer_processes_than_the_engine_needs_are_refused(bench: Bench) -> None:
    with pytest.raises(SandboxUnavailableError) as caught:
        bench.sandbox.launch(bench.spec("true", processes=4))
    assert caught.value.reason == "too_few_processes"
    assert bench.run("true", processes=8).verdict == Verdict.SUCCEEDED


@pytest.mark.parametrize("host", ["unix:///nowhere/docker.sock", "tcp://127.0.0.1:1"])
def test_an_engine_that_is_not_here_is_said(bench: Bench, host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from sandbox import docker_engine

    monkeypatch.setenv("DOCKER_HOST", host)
    begun = time.monotonic()
    with pytest.raises(SandboxUnavailableError) as caught:
        docker_engine.connect()
    assert caught.value.reason == "no_docker"
    assert caught.value.remedy
    assert time.monotonic() - begun < 30
