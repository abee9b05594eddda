"""Adapters with named protections switched off, for positive controls only; no setting and no spec leads here.

What is off opens the way to canaries of our own and to nothing else: a network where our listener is the whole world, a
folder and a device made for the suite, the neighbour that it launched itself.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fumehood.domain.execution import Artifact, Rejection, Spec
from sandbox import intake, kernel, seccomp
from sandbox.docker import DockerSandbox
from sandbox.host import HostSandbox
from sandbox.local import LocalSandbox
from tests.escape import loosened
from tests.escape.loosened import FOREIGN, LooseRules
from tests.escape.proxy import Proxy

if TYPE_CHECKING:
    from sandbox.cgroups import Hierarchy
    from sandbox.records import Record
    from tests.escape.world import World

FOR_EVER_S = 3600.0
NO_CAP = 1 << 40
ROOT = 0
LARGE_TMP = 1 << 30
SOME = ["NET_RAW", "MKNOD", "SYS_BOOT", "SYS_NICE"]
"""Capabilities that the tricks would use; an engine may not have all of them itself."""


@dataclass(kw_only=True)
class Weakness:
    """What is off, and the canaries that it opens the way to."""

    off: frozenset[str]
    house: Path
    """A folder of the suite that anybody may enter: `packages`, `shm`, `device` and the canary lie in it."""
    world: World | None = None
    holder: str = ""
    """The container whose network the world is."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """The worker's own."""
    uid: int | None = None
    """Another execution's host user."""
    folders: Sequence[Path] = ()
    """Folders of the host that are shown as they are."""
    proxies: list[Proxy] = field(default_factory=list)
    """What stands in a gateway's place."""

    def lacks(self, protection: str) -> bool:
        """Tell whether a protection is off."""
        return protection in self.off

    def calls(self) -> frozenset[str]:
        """Return the system calls whose filter is off."""
        return frozenset(name.removeprefix("seccomp:") for name in self.off if name.startswith("seccomp:"))

    def network(self) -> Any:
        """Return what leads a launch into the world's network."""
        return self.world.entered() if self.world and not self.holder else nullcontext()


class Weak(HostSandbox):
    """What both adapters lose in the same way."""

    weakness: Weakness
    is_kept = False
    """Whether removing does nothing at all."""

    def _user(self, uid: int) -> int:
        if self.weakness.lacks("uid:root"):
            return ROOT
        if self.weakness.lacks("uid") and self.weakness.uid is not None:
            return self.weakness.uid
        return uid

    def _rules(self) -> tuple[seccomp.Rule, ...]:
        calls = self.weakness.calls()
        return tuple(replace(rule, calls=tuple(set(rule.calls) - calls)) for rule in seccomp.RULES)

    def _shared_plan(self, *given: Any) -> dict[str, Any]:
        plan = super()._shared_plan(*given)
        if self.weakness.lacks("deadline"):
            plan["wall_s"] = FOR_EVER_S
        if self.weakness.lacks("output cap"):
            plan["output_bytes"] = NO_CAP
        return plan

    def _loosen(self, spec: Spec, groups: Hierarchy, uid: int) -> int:
        """Take away what is not in the plan: limits of the control group, owners of files; the user to run as."""
        for protection, name in (("memory", "memory."), ("pids", "pids."), ("cpu", "cpu.")):
            if self.weakness.lacks(protection):
                loosened.unlimit(groups, self.installation, spec, name)
        user, volume = self._user(uid), self._place(spec.name) / "volume"
        if user != uid:
            loosened.own(volume / "work", user, user)
            loosened.own(volume / "in", 0, user)
        if self.weakness.lacks("owner of /in"):
            loosened.own(volume / "in", user, user)
            for place in (volume / "in").rglob("*"):
                place.chmod(0o700)
            (volume / "in").chmod(0o700)
        self._open_way_out(spec, user)
        return user

    def _open_way_out(self, spec: Spec, user: int) -> None:
        folder = self._door.folder(spec.name)
        if self.weakness.lacks("read-only /egress"):
            loosened.own(folder, user, user)
        if self.weakness.lacks("rules of the gateway"):
            (folder / "socket").rename(folder / "gateway")
            self.weakness.proxies.append(Proxy(folder / "socket", user))

    def _take_in(self, spec: Spec, volume: Path, into: Path) -> tuple[tuple[Artifact, ...], tuple[Rejection, ...]]:
        off = {name.removeprefix("intake:") for name in self.weakness.off if name.startswith("intake:")}
        if not off:
            return super()._take_in(spec, volume, into)
        if "links" in off:
            flags = kernel.RDONLY | kernel.NOSUID | kernel.NODEV | kernel.REMOUNT
            kernel.mount(volume, volume, "", flags)
        caps = intake.Caps(artifacts=spec.max_artifacts, total_bytes=spec.max_artifact_bytes)
        for name, value in (("artifacts", 2 * spec.max_artifacts), ("total_bytes", 1 << 40), ("depth", 1000)):
            if name in off:
                caps = replace(caps, **{name: value})
        patterns = ("**",) if "globs" in off else spec.collect
        return intake.collect(volume / "work", into, patterns, caps, rules=LooseRules(off))

    def _check_inputs(self, spec: Spec, volume: Path) -> None:
        if not self.weakness.lacks("hash check"):
            super()._check_inputs(spec, volume)

    def stop(self, name: str, reason: str) -> None:
        """Store the reason, and then, where the kill is off, do nothing."""
        if self.weakness.lacks("kill"):
            return
        super().stop(name, reason)

    def _release(self, record: Record) -> None:
        if not self.is_kept:
            super()._release(record)

    def forget(self, name: str) -> None:
        """Remove as one that does not take back what it gave, so that what is left can be seen."""
        self.is_kept = True
        try:
            self.remove(name)
        finally:
            self.is_kept = False

    def _asked(self, spec: Spec) -> Spec:
        """Return the spec as it is carried out: with no quota, or inside a shell that outlives it."""
        if self.weakness.lacks("storage"):
            spec = replace(spec, storage="none")
        if self.weakness.lacks("granted capabilities"):
            spec = replace(spec, network="allow:arxiv,openalex,semantic-scholar")
        if self.weakness.lacks("end with the first process"):
            spec = replace(spec, command=("sh", "-c", '"$@"; code=$?; sleep 2; exit $code', "sh", *spec.command))
        return spec


class WeakLocal(Weak, LocalSandbox):
    """The local adapter without some of its protections."""

    def __init__(self, weakness: Weakness, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self.weakness = weakness

    def launch(self, spec: Spec) -> None:
        """Start the execution, in the world's network where its own is off."""
        with self.weakness.network():
            super().launch(self._asked(spec))

    def _plan(self, spec: Spec, groups: Hierarchy, uid: int) -> dict[str, Any]:
        plan = super()._plan(spec, groups, uid)
        plan["uid"] = self._loosen(spec, groups, uid)
        rules = loosened.program(self._rules(), foreign=self.weakness.lacks(FOREIGN))
        Path(plan["seccomp"]).write_bytes(rules)
        if self.weakness.lacks("oom score"):
            plan["oom_score"] = 0
        if self.weakness.lacks("rlimits:fsize"):
            del plan["rlimits"]["RLIMIT_FSIZE"]
        plan["arguments"] = self._weaker(plan["arguments"], spec.name)
        return plan

    def _weaker(self, told: list[str], name: str) -> list[str]:
        volume, egress = self._place(name) / "volume", str(self._door.folder(name))
        off, house = self.weakness.off, self.weakness.house
        swaps: dict[str, tuple[list[str], list[str]]] = {
            "network": (["--unshare-net"], []),
            "ipc namespace": (["--unshare-ipc"], []),
            "capabilities": (["--cap-drop", "ALL"], ["--cap-add", "ALL"]),
            "read-only root": (["--remount-ro", "/"], []),
            "read-only /proc/sys": (["--ro-bind", "/proc/sys", "/proc/sys"], []),
            "read-only /proc": (["--remount-ro", "/proc"], []),
            "read-only /in": (["--ro-bind", str(volume / "in"), "/in"], ["--bind", str(volume / "in"), "/in"]),
            "read-only /egress": (["--ro-bind", egress, "/egress"], ["--bind", egress, "/egress"]),
            "user namespaces": (["--disable-userns"], []),
        }
        for protection, (old, new) in swaps.items():
            if protection in off:
                told = loosened.swap(told, old, new)
        if "pid namespace" in off:
            told = loosened.swap(told, ["--unshare-pid"], [])
            told = loosened.swap(told, ["--proc", "/proc"], ["--bind", "/proc", "/proc"])
        if "own /dev/shm" in off:
            at = told.index("/dev/shm") - 5
            told = [*told[:at], "--bind", str(house / "shm"), "/dev/shm", *told[at + 6 :]]
        for protection, place in (("size of /tmp", "/tmp"), ("size of /dev/shm", "/dev/shm")):
            if protection in off:
                told = [*told]
                told[told.index(place) - 4] = str(LARGE_TMP)
        shown = []
        for source, target in loosened.shown(self.weakness):
            shown += ["--dev-bind" if target.startswith("/dev/") else "--bind", str(source), target]
        variables = [("--setenv", name, value) for name, value in loosened.environment(self.weakness).items()]
        shown += [word for variable in variables for word in variable]
        at = told.index("--chdir")
        return [*told[:at], *shown, *told[at:]]


class WeakDocker(Weak, DockerSandbox):
    """The Docker adapter without some of its protections."""

    def __init__(self, weakness: Weakness, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self.weakness = weakness
        self._user_of: dict[str, int] = {}

    def launch(self, spec: Spec) -> None:
        """Start the execution."""
        super().launch(self._asked(spec))

    def _plan(self, spec: Spec, groups: Hierarchy, uid: int) -> dict[str, Any]:
        self._user_of[spec.name] = self._loosen(spec, groups, uid)
        return super()._plan(spec, groups, uid)

    def _create(self, name: str, body: dict[str, Any]) -> str:
        user = self._user_of[name]
        body = {**body, "User": f"{user}:{user}", "HostConfig": self._weaker(body["HostConfig"])}
        body["Env"] = [*body["Env"], *(f"{key}={value}" for key, value in loosened.environment(self.weakness).items())]
        if self.weakness.lacks("network"):
            del body["Hostname"]
        return super()._create(name, body)

    def _weaker(self, config: dict[str, Any]) -> dict[str, Any]:
        off, house = self.weakness.off, self.weakness.house
        changed: dict[str, dict[str, Any]] = {
            "network": {"NetworkMode": f"container:{self.weakness.holder}"},
            "pid namespace": {"PidMode": "host"},
            "ipc namespace": {"IpcMode": "host"},
            "capabilities": {"CapDrop": [], "CapAdd": SOME},
            "read-only root": {"ReadonlyRootfs": False},
            "read-only /proc/sys": {"ReadonlyPaths": [], "MaskedPaths": []},
            "read-only /proc": {"ReadonlyPaths": [], "MaskedPaths": []},
            "control groups": {"MaskedPaths": [], "ReadonlyPaths": []},
            "memory": {"Memory": 0, "MemorySwap": 0},
            "pids": {"PidsLimit": 0},
            "cpu": {"CpuPeriod": 0, "CpuQuota": 0},
            "oom score": {"OomScoreAdj": 0},
            "size of /tmp": {"Tmpfs": {"/tmp": f"rw,nosuid,nodev,exec,size={LARGE_TMP},mode=1777"}},
            "size of /dev/shm": {"ShmSize": LARGE_TMP},
        }
        weaker = dict(config)
        for protection in off & set(changed):
            weaker |= changed[protection]
        profile = loosened.profile(self._rules(), foreign=FOREIGN in off)
        weaker["SecurityOpt"] = [f"seccomp={json.dumps(profile)}"]
        if "no-new-privileges" not in off:
            weaker["SecurityOpt"].append("no-new-privileges:true")
        limits = [one for one in config["Ulimits"] if f"rlimits:{one['Name']}" not in off]
        weaker["Ulimits"] = limits
        shown = loosened.shown(self.weakness)
        if "own /dev/shm" in off:
            shown.append((house / "shm", "/dev/shm"))
        mounts = [
            {**one, "ReadOnly": False} if f"read-only {one['Target']}" in off else one for one in config["Mounts"]
        ]
        weaker["Mounts"] = [*mounts, *(
            {"Type": "bind", "Source": str(source), "Target": target}
            for source, target in shown if not target.startswith("/dev/") or target == "/dev/shm"
        )]  # fmt: skip
        weaker["Devices"] = [
            {"PathOnHost": str(source), "PathInContainer": target, "CgroupPermissions": "rwm"}
            for source, target in shown if target.startswith("/dev/") and target != "/dev/shm"
        ]  # fmt: skip
        return weaker
