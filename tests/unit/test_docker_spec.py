"""A spec becomes the engine's words: every limit is there, and nothing of the caller's loosens anything."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fumehood.domain.execution import MIB, Input, Kind, Limits, Spec
from fumehood.errors import BadInputError, SandboxUnavailableError
from sandbox import docker_engine, docker_promises, docker_runtime, docker_spec

NAME = "fh-01hzzzzzzzzzzzzzzzzzzzzzzz"
PLACE = docker_spec.Place(
    installation="1234",
    image="sha256:ab",
    uid=1_900_000_007,
    volume=Path("/run/fumehood/1234/x/volume"),
    etc=Path("/run/fumehood/1234/x/etc"),
    cgroup_parent="/fh/1234/x/box",
    digest="cd",
    launched_at=0.0,
    environment={"PYTHONPATH": "/lab/site-packages"},
    links={"/tmp/matplotlib/list.json": "/lab/mpl/list.json"},
)


def make_spec(**asked: object) -> Spec:
    return replace(Spec(name=NAME, kind=Kind.RUN, command=("python3", "x.py"), image="plain"), **asked)  # type: ignore[arg-type]


def host(**asked: object) -> dict[str, object]:
    found: dict[str, object] = docker_spec.create(make_spec(**asked), PLACE)["HostConfig"]
    return found


def test_every_lock_is_set() -> None:
    body = docker_spec.create(make_spec(), PLACE)
    found = body["HostConfig"]
    assert found["NetworkMode"] == "none"
    assert (found["ReadonlyRootfs"], found["Privileged"], found["CapDrop"]) == (True, False, ["ALL"])
    assert (found["IpcMode"], found["CgroupnsMode"], found["Init"]) == ("private", "private", True)
    assert (found["AutoRemove"], found["RestartPolicy"]) == (False, {"Name": "no"})
    assert found["SecurityOpt"][0] == "no-new-privileges:true"
    assert '"SCMP_ACT_ERRNO"' in found["SecurityOpt"][1]
    assert {"/sys", "/proc/kcore", "/proc/keys"} <= set(found["MaskedPaths"])
    assert "/proc/sys" in found["ReadonlyPaths"]
    assert body["User"] == "1900000007:1900000007"
    assert not {"CapAdd", "Devices", "DeviceRequests", "Binds", "PidMode", "UTSMode", "Sysctls"} & set(found)


@given(
    memory=st.integers(16, 100_000),
    storage=st.integers(4, 100_000),
    cpus=st.floats(0.05, 64),
    output=st.integers(1024, 1024 * MIB),
    processes=st.integers(8, 65536),
)
def test_every_limit_is_set(memory: int, storage: int, cpus: float, output: int, processes: int) -> None:
    limits = Limits(memory_mib=memory, storage_mib=storage, cpus=cpus, output_bytes=output, processes=processes)
    found = docker_spec.create(make_spec(limits=limits), PLACE)["HostConfig"]
    assert found["Memory"] == found["MemorySwap"] == memory * MIB
    assert 1000 <= found["CpuQuota"] <= max(1000, cpus * found["CpuPeriod"])
    assert found["PidsLimit"] > docker_runtime.DEFAULT.tasks(processes) == processes + 1
    assert found["Runtime"] == "runc"
    ulimits = {one["Name"]: one["Hard"] for one in found["Ulimits"]}
    assert (ulimits["fsize"], ulimits["core"]) == (storage * MIB, 0)
    assert int(found["LogConfig"]["Config"]["max-size"].removesuffix("m")) * MIB > output
    assert found["ShmSize"] <= memory * MIB


def test_only_its_own_folders_are_mounted() -> None:
    mounts = host()["Mounts"]
    assert isinstance(mounts, list)
    assert {one["Target"]: one["ReadOnly"] for one in mounts} == {
        "/work": False,
        "/in": True,
        **{f"/etc/{name}": True for name in ("passwd", "group", "resolv.conf", "hosts", "hostname")},
    }
    assert all(one["Source"].startswith("/run/fumehood/1234/x/") for one in mounts)


def test_the_workspaces_data_are_shown_above_it_too() -> None:
    found = host(inputs=(Input(path="work/data/plays.txt", sha256="0" * 64, source="/x"),))["Mounts"]
    assert isinstance(found, list)
    (one,) = (mount for mount in found if mount["Target"] == "/data")
    assert Path(one["Source"]).parts[-2:] == ("work", "data")


def test_the_environment_is_the_images_and_the_specs() -> None:
    told = docker_spec.environment(make_spec(environment={"SEED": "1"}), {"PYTHONPATH": "/lab"})
    assert told == [
        "PATH=/lab/bin:/usr/bin:/bin",
        "HOME=/work",
        "LANG=C.UTF-8",
        "PYTHONPATH=/lab",
        "SEED=1",
        "HOSTNAME",
    ]
    assert "HOSTNAME" not in docker_spec.environment(make_spec(environment={"HOSTNAME": "mine"}), {})


def test_the_command_is_never_read_by_a_shell() -> None:
    hostile = ("echo", "$(id)", "; rm -rf /", "'")
    found = docker_spec.command(make_spec(command=hostile), {"/tmp/a b/c": "/lab/it's"})
    assert found[:2] == ["/bin/sh", "-c"]
    assert found[2] == """mkdir -p '/tmp/a b' && ln -s '/lab/it'"'"'s' '/tmp/a b/c'; exec "$@" 2>&1"""
    assert tuple(found[4:]) == hostile


def test_labels_of_ours_cannot_be_taken() -> None:
    spec = make_spec(labels={"installation": "forged", "direction": "dir_1"}, fence=3)
    found = docker_spec.labels(spec, PLACE)
    assert found == {
        "fumehood.direction": "dir_1",
        "fumehood.installation": "1234",
        "fumehood.name": NAME,
        "fumehood.kind": "run",
        "fumehood.fence": "3",
        "fumehood.deadline": "1970-01-01T02:00:00+00:00",
        "fumehood.spec": "cd",
    }


def test_gpus_are_asked_for_by_id() -> None:
    (request,) = host(gpus=("GPU-1", "GPU-2"))["DeviceRequests"]  # type: ignore[misc]
    assert (request["Count"], request["DeviceIDs"], request["Capabilities"]) == (0, ["GPU-1", "GPU-2"], [["gpu"]])


def test_a_spec_cannot_ask_the_gpu_runtime_for_more() -> None:
    with pytest.raises(BadInputError, match="NVIDIA_VISIBLE_DEVICES cannot be set"):
        docker_spec.check(make_spec(environment={"NVIDIA_VISIBLE_DEVICES": "all"}, gpus=("GPU-1",)))


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        ({"limits": Limits(processes=7)}, "too_few_processes"),
    ],
)
def test_what_is_not_held_is_refused(asked: dict[str, object], reason: str) -> None:
    with pytest.raises(SandboxUnavailableError) as caught:
        docker_spec.check(make_spec(**asked))
    assert caught.value.reason == reason
    assert caught.value.remedy


FIT = {"SecurityOptions": ["name=seccomp,profile=default"], "CgroupDriver": "cgroupfs"}


@pytest.mark.parametrize(
    "told",
    [
        {"SecurityOptions": ["name=seccomp,profile=default", "name=rootless"]},
        {"SecurityOptions": ["name=seccomp,profile=default", "name=userns"]},
        {"SecurityOptions": ["name=apparmor"]},
        {"CgroupDriver": "systemd"},
    ],
)
def test_an_engine_that_would_not_hold_them_is_refused(told: dict[str, object]) -> None:
    docker_promises.check_engine(FIT)
    with pytest.raises(SandboxUnavailableError) as caught:
        docker_promises.check_engine({**FIT, **told})
    assert caught.value.reason == "engine_unfit"


def test_the_execution_is_a_user_of_its_own_etc(tmp_path: Path) -> None:
    docker_spec.write_etc(tmp_path, 1_900_000_007)
    assert "exp:x:1900000007:1900000007:" in (tmp_path / "passwd").read_text(encoding="utf-8")
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o644}


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ('could not select device driver "" with capabilities: [[gpu]]', "gpu_runtime_missing"),
        ("nvidia-container-cli: initialization error: load library failed", "gpu_runtime_missing"),
        ("nvidia-container-cli: device error: 7: unknown device: unknown", "gpu_missing"),
        ("CDI device injection failed: unresolvable CDI devices nvidia.com/gpu=7", "gpu_missing"),
    ],
)
def test_a_gpu_that_is_not_there_is_told_apart_from_an_engine_that_passes_none(said: str, reason: str) -> None:
    assert docker_engine.is_no_gpu(said)
    error = docker_engine.no_gpu(said)
    assert error.reason == reason
    assert ("FUMEHOOD_GPUS" in str(error)) is (reason == "gpu_missing")
