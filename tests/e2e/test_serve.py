"""`fumehood serve` as a person has it: what is submitted is carried out, whatever dies, and it ends cleanly."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from fumehood.artifacts.signing import CURSOR_FILE
from fumehood.cli.servers import lasting_port
from tests.e2e.conftest import COMMAND, House
from tests.fakes.quick import NAME as QUICK

pytestmark = [pytest.mark.kill, pytest.mark.slow, pytest.mark.local, pytest.mark.latex]
ASKED = {"template": QUICK, "profile": "tiny", "model": "offline", "ideas": 1, "runs": 1}
SUBMIT = ("submit", "--template", QUICK, "--profile", "tiny", "--ideas", "1", "--runs", "1")
PARTS = ("gateway", "write", "run", "watch", "api")
STARTS_WITHIN_S = 90.0
STOPS_WITHIN_S = 20.0
KILLED_WITHIN_S = 5.0
GOES_ON_WITHIN_S = 90.0
DONE_WITHIN_S = 400.0


def until(holds: Callable[[], object], within_s: float, what: str) -> None:
    deadline = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < deadline, f"{what}: not within {within_s:.0f} s"
        time.sleep(0.05)


@dataclass
class Serving:
    """A started `fumehood serve`, as a terminal has it: a process group of its own."""

    house: House
    folder: Path
    port: int = field(default_factory=lasting_port)

    def __post_init__(self) -> None:
        command = [*COMMAND, "serve", "--port", str(self.port), "--sandbox", "local", "--json"]
        with (self.folder / "out").open("wb") as out, (self.folder / "err").open("wb") as err:
            self.process = subprocess.Popen(
                command,
                env=self.house.environment(),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )

    def told(self) -> dict[str, Any]:
        """Wait until it serves, and return the one document."""
        place = self.folder / "out"
        until(lambda: place.read_bytes().endswith(b"}\n") or self.process.poll() is not None, STARTS_WITHIN_S, "serves")
        assert self.process.poll() is None, self.said()
        found: dict[str, Any] = json.loads(place.read_bytes())
        return found

    def said(self) -> str:
        return (self.folder / "err").read_text(encoding="utf-8")

    def end(self, by: signal.Signals) -> int:
        """Send a signal to the whole group, as a terminal does, and return the exit status."""
        began = time.monotonic()
        os.killpg(self.process.pid, by)
        status = self.process.wait(timeout=60)
        assert time.monotonic() - began < STOPS_WITHIN_S
        return status

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        """End it where a test has not."""
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(timeout=60)

    def child(self, name: str) -> int:
        """Return the process of a part; 0 where there is none now."""
        word = {"gateway": "fumehood.gateway", "api": "api"}.get(name, name)
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
                parent = (entry / "stat").read_text().rpartition(")")[2].split()[1]
            except OSError:
                continue
            if parent == str(self.process.pid) and word.encode() in words:
                return int(entry.name)
        return 0

    def curl(self, path: str, key: str, *words: str) -> bytes:
        command = ["curl", "-sS", "--fail-with-body", "-H", f"Authorization: Bearer {key}", *words]
        done = subprocess.run([*command, f"http://127.0.0.1:{self.port}{path}"], capture_output=True, timeout=60)
        assert done.returncode == 0, (done.stdout, done.stderr)
        return done.stdout


@pytest.fixture
def served(make_house: Any, slow_template: Path) -> House:
    made: House = make_house("served", FUMEHOOD_TEMPLATES_DIR=str(slow_template.parent))
    return made


def test_what_is_submitted_is_carried_out_across_restarts_and_kills(served: House, tmp_path: Path) -> None:
    first = Serving(served, folder(tmp_path, "first"))
    try:
        key = first.told()["admin_key"]
        refused(served, first.port, tmp_path)
        posted = json.loads(first.curl("/v1/directions", key, "--json", json.dumps(ASKED)))["id"]
        until(lambda: running(served), GOES_ON_WITHIN_S, "an execution runs")
        assert first.end(signal.SIGINT) == 130
        assert json.loads((tmp_path / "first/out").read_bytes())["admin_key"] == key
        assert served.left() == []
    finally:
        first.close()
    goes_on(served, tmp_path, key, posted)


def refused(house: House, port: int, tmp_path: Path) -> None:
    """A second server of a state folder, and one whose port is taken, say so in a sentence."""
    second = house.call("serve", "--port", "0")
    assert (second.returncode, second.stdout) == (2, "")
    assert second.stderr == f"fumehood: Another `fumehood serve` works in {house.state}: use that one, or " \
        "set FUMEHOOD_STATE_DIR.\n"  # fmt: skip
    elsewhere = House(state=tmp_path / "elsewhere", lab=house.lab).call("serve", "--port", str(port), "--json")
    assert elsewhere.returncode == 3
    told = {"error": f"127.0.0.1:{port} cannot be listened on: Address already in use. Give another --port.",
            "exit_status": 3}  # fmt: skip
    assert json.loads(elsewhere.stdout) == told


def goes_on(house: House, tmp_path: Path, key: str, posted: str) -> None:
    """A second start goes on with what the first left, heals whatever is killed, and ends politely."""
    server = Serving(house, folder(tmp_path, "second"))
    asking = House(
        state=tmp_path / "nobody",
        lab=house.lab,
        settings={"FUMEHOOD_URL": f"http://127.0.0.1:{server.port}", "FUMEHOOD_API_KEY": key},
    )
    try:
        assert server.told() == {"url": f"http://127.0.0.1:{server.port}"}
        until(
            lambda: b"data drawn" in server.curl(f"/v1/directions/{posted}/events?follow=false", key),
            GOES_ON_WITHIN_S,
            "it goes on",
        )
        assert asking.call("cancel", posted).returncode == 0
        with subprocess.Popen(
            [*COMMAND, *SUBMIT, "--watch", "--json"],
            env=asking.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as submitting:
            for name in PARTS:
                time.sleep(2)
                before = server.child(name)
                os.kill(before, signal.SIGKILL)
                until(
                    lambda before=before, name=name: server.child(name) not in {0, before},
                    GOES_ON_WITHIN_S,
                    f"{name} is healed",
                )  # type: ignore[misc]
            out, err = submitting.communicate(timeout=DONE_WITHIN_S)
        assert submitting.returncode == 0, f"{out}\n{err}\n{server.said()}"
        told = json.loads(out)
        assert (told["direction"]["state"], told["summary"]["papers"]) == ("done", 1)
        assert "verified" in err
        papers(asking, tmp_path, told["direction"]["id"])
        # The baseline, and the one run.
        until(lambda: json.loads(server.curl("/v1/log", key))["size"] >= 2, GOES_ON_WITHIN_S, "the log is signed")
        assert server.end(signal.SIGTERM) == 0
        assert house.left() == []
        assert "Traceback" not in "".join(log.read_text() for log in (house.state / "logs").iterdir())
    finally:
        server.close()


def papers(asking: House, tmp_path: Path, direction: str) -> None:
    done = asking.call("paper", direction, "--out", str(tmp_path / "papers"), "--json")
    assert done.returncode == 0, done.stderr
    [paper] = json.loads(done.stdout)["papers"]
    assert Path(paper["path"]).read_bytes().startswith(b"%PDF-")
    report = asking.call("report", "--direction", direction, "--json")
    assert [row["papers"] for row in json.loads(report.stdout)] == [1]
    assert not (tmp_path / "nobody").exists()


def test_a_server_that_is_killed_or_gives_up_leaves_no_process(served: House, tmp_path: Path) -> None:
    killed = Serving(served, folder(tmp_path, "killed"))
    killed.told()
    killed.kill()
    until(lambda: not served.processes(), STOPS_WITHIN_S, "its processes end")
    server = Serving(served, folder(tmp_path, "given_up"), killed.port)
    try:
        assert "admin_key" not in server.told()
        (served.state / CURSOR_FILE).write_bytes(b"short")
        os.kill(server.child("api"), signal.SIGKILL)
        assert server.process.wait(timeout=60) == 1
        last = server.said().splitlines()[-1]
        assert last.startswith("fumehood: The api process ended 5 times (last exit status 1). Its log is ")
        assert served.left() == []
    finally:
        server.close()


def test_the_kill_switch_stops_what_runs_and_work_goes_on_afterwards(served: House, tmp_path: Path) -> None:
    server = Serving(served, folder(tmp_path, "switch"))
    try:
        key = server.told()["admin_key"]
        posted = json.loads(server.curl("/v1/directions", key, "--json", json.dumps(ASKED)))["id"]
        events = f"/v1/directions/{posted}/events?follow=false"
        until(lambda: b"data drawn" in server.curl(events, key), GOES_ON_WITHIN_S, "data are drawn")
        until(lambda: running(served), GOES_ON_WITHIN_S, "an execution runs")
        server.curl("/v1/admin/pause", key, "--json", json.dumps({"kill": True}))
        until(lambda: not running(served), KILLED_WITHIN_S, "what runs is stopped")
        deadline = time.monotonic() + 3.0
        while time.monotonic() < deadline:
            assert not running(served)
            time.sleep(0.05)
        server.curl("/v1/admin/resume", key, "--json", "{}")
        until(lambda: running(served), GOES_ON_WITHIN_S, "it goes on")
        server.curl(f"/v1/directions/{posted}/cancel", key, "--json", "{}")
        until(lambda: not running(served), STOPS_WITHIN_S, "what was cancelled is stopped")
        assert server.end(signal.SIGTERM) == 0
        assert served.left() == []
    finally:
        server.close()


def running(house: House) -> bool:
    """Whether an execution has something on this machine."""
    return any(not one.isdigit() for one in house.left())


def folder(tmp_path: Path, name: str) -> Path:
    made = tmp_path / name
    made.mkdir()
    return made
