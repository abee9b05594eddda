"""A runtime is one that the engine has and that limits what it starts; what it holds is told as its own."""

from __future__ import annotations

import pytest

from fumehood.errors import BadInputError, SandboxUnavailableError
from fumehood.settings import Settings
from sandbox import docker_promises, docker_runtime
from sandbox.choose import choose

TOLD = {"runc": {"path": "runc"}, "runsc": {"path": "/usr/bin/runsc", "runtimeArgs": ["--platform=systrap"]}}


@pytest.mark.parametrize(("wanted", "name"), [("", "runc"), ("runc", "runc"), ("runsc", "runsc")])
def test_a_runtime_is_found_by_its_name(wanted: str, name: str) -> None:
    assert docker_runtime.find(wanted, TOLD).name == name


@pytest.mark.parametrize(
    ("wanted", "told", "reason"),
    [
        ("runsc", {"runc": {}}, "runtime_missing"),
        ("", {}, "runtime_missing"),
        ("runsc", {"runsc": {"runtimeArgs": ["--ignore-cgroups"]}}, "runtime_unfit"),
        ("runsc", {"runsc": {"runtimeArgs": ["--debug", "--ignore-cgroups=true"]}}, "runtime_unfit"),
    ],
)
def test_one_that_is_missing_or_limits_nothing_is_refused(wanted: str, told: dict[str, object], reason: str) -> None:
    with pytest.raises(SandboxUnavailableError) as caught:
        docker_runtime.find(wanted, told)
    assert caught.value.reason == reason
    assert caught.value.remedy


def test_limits_that_are_not_ignored_are_no_reason_to_refuse() -> None:
    told = {"runsc": {"runtimeArgs": ["--ignore-cgroups=false"]}}
    assert docker_runtime.find("runsc", told).name == "runsc"


def test_another_runtime_is_not_known() -> None:
    with pytest.raises(BadInputError, match="runc or runsc"):
        docker_runtime.find("kata", {"kata": {}})


@pytest.mark.parametrize("name", docker_runtime.NAMES)
def test_a_runtime_says_its_name_and_what_is_its_own(name: str) -> None:
    told = docker_runtime.find(name, TOLD).mechanisms(docker_promises.MECHANISMS)
    assert told["S8"].endswith(f"; runtime {name}")
    assert ("gVisor" in told["S8"], "gVisor" in told["S4"]) == (name == "runsc", name == "runsc")
    assert ("seccomp profile" in told["S8"]) is (name == "runc")
    assert told["S1"] == docker_promises.MECHANISMS["S1"]


def test_gvisor_gets_room_for_what_it_needs_itself() -> None:
    runc, runsc = (docker_runtime.Runtime(name) for name in docker_runtime.NAMES)
    assert (runc.tasks(64), runsc.tasks(64)) == (65, 416)
    assert runsc.tasks(8) > 25 + 8 * 5.3


def test_a_gateway_is_refused_where_no_socket_is_passed_in() -> None:
    docker_runtime.require_sockets(docker_runtime.find("runc", TOLD))
    docker_runtime.require_sockets(docker_runtime.Runtime("runsc", ("--host-uds=open",)))
    with pytest.raises(SandboxUnavailableError) as caught:
        docker_runtime.require_sockets(docker_runtime.find("runsc", TOLD))
    assert caught.value.reason == "network_unsupported"


def test_whoever_names_a_runtime_is_not_given_another_sandbox(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")
    with pytest.raises(SandboxUnavailableError, match="does not answer"):
        choose("auto", Settings(docker_runtime="runsc"))
