"""What `fumehood run` does when one of its processes dies: it starts it again after a pause, and not for ever."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fumehood.cli import children
from fumehood.cli.children import Children, Part
from fumehood.errors import MachineUnfitError
from fumehood.settings import Settings

WAITING = "import sys; sys.stdin.read()"


class Simple(Children):
    """Keeps one child, a program that a test chose."""

    code = WAITING

    def _command(self, part: Part) -> list[str]:
        return [sys.executable, "-c", self.code, part.name]

    @property
    def pid(self) -> int:
        return self._running["watch"].pid


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Simple]:
    with Simple(Settings(state_dir=tmp_path), [Part(name="watch", module="none")]) as found:
        yield found


def check_until(kept: Simple, holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < deadline
        kept.check()
        time.sleep(0.01)


def test_a_watcher_that_was_killed_is_started_again(kept: Simple) -> None:
    for _ in range(2):
        before = kept.pid
        os.kill(before, signal.SIGKILL)
        check_until(kept, lambda before=before: kept.pid != before)  # type: ignore[misc]
        assert Path(f"/proc/{kept.pid}").exists()


def test_each_pause_is_longer_than_the_one_before(kept: Simple) -> None:
    pauses = [kept._pause("watch", 1) for _ in range(children.RESTARTS)]
    assert pauses == sorted(set(pauses))
    assert pauses[-1] <= children.LONGEST_PAUSE_S


def test_one_that_dies_over_and_over_is_given_up_with_its_log(kept: Simple, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(children, "FIRST_PAUSE_S", 0.01)
    kept.code = "raise SystemExit(7)"
    os.kill(kept.pid, signal.SIGKILL)
    with pytest.raises(MachineUnfitError, match=r"ended 5 times \(last exit status 7\).*watch\.log"):
        check_until(kept, lambda: False)


def test_a_gateway_whose_next_start_comes_to_nothing_has_its_tries_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(children, "FIRST_PAUSE_S", 0.01)
    count = tmp_path / "count"
    said: list[str] = []

    class Gateway(Simple):
        code = (
            f"import sys, pathlib; place = pathlib.Path({str(count)!r});"
            "starts = len(place.read_text()) if place.exists() else 0; place.write_text('x' * (starts + 1));"
            'sys.exit(3) if starts in (1, 2) else print(\'{"url": "http://here"}\', flush=True); sys.stdin.read()'
        )

    part = Part(name="gateway", module="none", tells_gateway=True)
    with Gateway(Settings(state_dir=tmp_path), [part], said.append) as kept:
        os.kill(kept._running["gateway"].pid, signal.SIGKILL)
        check_until(kept, lambda: count.read_text() == "x" * 4 and kept._running["gateway"].poll() is None)
    assert [line for line in said if "did not start" in line] != []


def test_a_gateway_is_started_again_where_it_was_and_then_anywhere(tmp_path: Path) -> None:
    part = children.gateway()
    kept = Children(Settings(state_dir=tmp_path), [part])
    assert kept._command(part)[-3:] == ["--port", "0", "--with-parent"]
    kept.gateway_url = "http://127.0.0.1:4321"
    told = []
    kept._begun["gateway"] = time.monotonic()
    for _ in range(2):
        kept._pause("gateway", -9)
        told.append(kept._command(part)[-2:])
    assert told == [["--port", "4321"], ["0", "--with-parent"]]


def test_both_sides_are_told_where_the_gateway_is_and_again_only_where_it_moved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(children, "FIRST_PAUSE_S", 0.01)
    assert all(part.needs_gateway for part in children.workers("local"))
    place = tmp_path / "url"
    place.write_text("http://here:1")

    class Gateway(Simple):
        code = (
            f"import json, pathlib, sys; url = pathlib.Path({str(place)!r}).read_text();"
            "sys.argv[1] == 'gateway' and print(json.dumps({'url': url}), flush=True); sys.stdin.read()"
        )

    parts = [
        Part(name="gateway", module="none", tells_gateway=True),
        Part(name="watch", module="none", needs_gateway=True),
    ]
    with Gateway(Settings(state_dir=tmp_path), parts) as kept:
        for url, moved in (("http://here:1", False), ("http://here:2", True)):
            place.write_text(url)
            gateway, watch = kept._running["gateway"].pid, kept.pid
            os.kill(gateway, signal.SIGKILL)
            check_until(kept, lambda before=gateway: kept._running["gateway"].pid != before)  # type: ignore[misc]
            assert (kept.gateway_url, kept.pid != watch) == (url, moved)


def test_one_that_lived_well_has_all_its_tries_again(kept: Simple) -> None:
    for _ in range(3 * children.RESTARTS):
        kept._begun["watch"] -= children.LIVED_WELL_S + 1
        assert kept._pause("watch", -9) == children.FIRST_PAUSE_S


def test_each_child_tells_its_figures_on_a_port_of_its_own(tmp_path: Path) -> None:
    settings = Settings(state_dir=tmp_path, metrics_port=9100)
    kept = Children(settings, ())
    told = [children.environment(kept._settings_of(name))["FUMEHOOD_METRICS_PORT"] for name in children.METRICS_PORTS]
    assert told == ["9100", "9101", "9102", "9103", "9104"]


@pytest.mark.parametrize(
    "url",
    [
        "postgresql+psycopg://fumehood:s3cret@db/fumehood",
        "postgresql+psycopg://fumehood@db/fumehood?password=s3cret",
        "postgresql+psycopg://fumehood@db/fumehood?sslpassword=s3cret",
    ],
)
def test_sudo_is_given_no_password_of_a_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    settings = Settings(state_dir=tmp_path, database_url=url)
    with pytest.raises(MachineUnfitError, match=r"with a password .* started by root.*passfile=") as refused:
        children.as_root(["python"], settings)
    assert "s3cret" not in str(refused.value) + repr(settings)


@pytest.mark.parametrize("url", ["", "postgresql+psycopg://fumehood@db/fumehood?passfile=/etc/fumehood/pgpass"])
def test_an_address_that_says_none_is_handed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    # A name that no folder has: the line to type says all that sudo would be given.
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MachineUnfitError, match="Type this instead: sudo env") as told:
        children.as_root(["python"], Settings(state_dir=tmp_path, database_url=url))
    assert url in str(told.value)


def test_without_a_port_none_has_one(kept: Simple) -> None:
    assert "FUMEHOOD_METRICS_PORT" not in children.environment(kept._settings_of("run"))
