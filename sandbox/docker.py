"""The Docker adapter: one hardened container, one loop volume and one detached supervisor for each execution.

What is kept on the state folder, the volume and the intake is the local adapter's, and so are the verbs that only
touch those.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import docker.errors

from fumehood.domain.execution import NAME, Capability, Ended, Running, Spec
from fumehood.errors import BadInputError, ConflictError, NotFoundError, SandboxUnavailableError
from sandbox import admission, cgroups, docker_engine, docker_promises, docker_spec, lab, records, uids, volumes
from sandbox import limits as translate
from sandbox.docker_engine import Engine
from sandbox.image import build as images
from sandbox.lab import Root
from sandbox.local import LocalSandbox
from sandbox.records import Record
from sandbox.starting import Starting

if TYPE_CHECKING:
    from fumehood.settings import Settings

_SHIM = Path(__file__).with_name("docker_shim.py")


class DockerSandbox(LocalSandbox):
    """Runs each execution as a container: a host user, a control group and a volume of its own."""

    def __init__(
        self,
        engine: Engine,
        state_dir: Path,
        run_dir: Path,
        roots: Mapping[str, Root] | None = None,
        *,
        ceilings: translate.Ceilings | None = None,
        runtime: str = "",
    ) -> None:
        super().__init__(state_dir, run_dir, roots, ceilings=ceilings)
        self._engine = engine
        self._runtime = runtime
        self._every = docker_engine.every_hierarchy(self._groups)

    @classmethod
    def connect(cls, settings: Settings) -> Self:
        """Return the sandbox of the engine that answers here, or raise with what is missing."""
        engine = docker_engine.connect()
        return cls(engine, settings.state_dir, settings.run_dir, lab.find(settings.state_dir, settings.lab_dir))

    def launch(self, spec: Spec) -> None:
        """Start the execution, or adopt the one of that name and spec."""
        groups = self._check(spec)
        record = self._record(spec.name)
        with record.locked(make=True):
            if record.adopt(spec):
                if record.was_started or record.read("exit.json"):
                    return
                # Whoever launched it died on the way; what it made is in an unknown state.
                self._release(record)
            shim = None
            try:
                image = self._image(spec.image)
                shim = Starting(record, program=_SHIM)
                plan = self._prepare_container(record, spec, image, groups)
                # From here on it counts as started: whoever finds it without a shim asks the engine.
                record.write("plan.json", plan)
                self._go(shim, plan)
            except BaseException as error:
                if shim:
                    shim.abandon()
                self._release(record)
                record.erase()
                if isinstance(error, docker_engine.ERRORS):
                    raise docker_engine.unavailable(error) from error
                raise

    def inspect(self, name: str) -> Running | Ended:
        """Tell whether it ended, and how; a container without a supervisor gets one again."""
        record = self._record(name)
        if told := record.read("exit.json"):
            return records.ended(told)
        if not record.exists:
            raise NotFoundError(f"There is no execution {name}.")
        if record.is_supervised():
            return self._running(record)
        with record.locked(wait=False) as held:
            if told := record.read("exit.json"):
                return records.ended(told)
            if not held:
                # Being launched at this moment, or removed.
                return Running(started_at=None)
            if not record.is_supervised():
                self._supervise_again(record)
            if told := record.read("exit.json"):
                return records.ended(told)
        return self._running(record)

    def stop(self, name: str, reason: str) -> None:
        """Store the reason, then end the whole tree."""
        super().stop(name, reason)
        record = self._record(name)
        plan = record.read("plan.json")
        if plan and self._every and record.read("exit.json") is None:
            # Neither a hung supervisor nor a hung engine keeps it from ending.
            cgroups.kill(self._every, self.installation, f"{name}/{docker_spec.GROUP}/{plan['id']}")

    def capabilities(self) -> tuple[Capability, ...]:
        """Say what holds each promise here."""
        return docker_promises.capabilities(self._groups)

    def _check(self, spec: Spec) -> cgroups.Hierarchy:
        admission.check_text(spec)
        self._ceilings.check(spec.limits)
        if spec.storage not in {"loop", "none"}:
            raise BadInputError(f"The storage driver is loop or none, not {spec.storage!r}.")
        docker_spec.check(spec)
        self._root(spec.image)
        return docker_promises.require(self._every, quota=spec.storage == "loop")

    def _root(self, image: str) -> Root:
        if image == "latex":
            # Made of packages, so it does not depend on what this machine has itself.
            return images.latex()
        if image not in self._roots:
            remedy = "Run `make setup`." if image == "lab" else ""
            raise SandboxUnavailableError(f"The image {image} is not installed.", remedy=remedy, reason="no_image")
        return self._roots[image]

    def _image(self, name: str) -> images.Image:
        home = self._installation
        return images.ensure(self._engine, home.state_dir, home.run_dir, self._root(name))

    def _prepare_container(
        self, record: Record, spec: Spec, image: images.Image, groups: cgroups.Hierarchy
    ) -> dict[str, Any]:
        home, name = self._installation, spec.name
        uid = uids.claim(home.run_dir, f"{home.id}/{name}")
        place = home.make_run_folder(self._place(name))
        # One init stands above the program here, and two processes in the local adapter.
        processes = docker_spec.tasks(spec.limits) - translate.SUPERVISORS
        cgroups.make(groups, home.id, name, replace(spec.limits, processes=processes))
        docker_engine.make_below(groups, home.id, name, docker_spec.GROUP)
        volume, etc = place / "volume", place / "etc"
        for folder in (volume, etc):
            folder.mkdir()
            folder.chmod(0o711)
        docker_spec.write_etc(etc, uid)
        if spec.storage == "loop":
            volumes.make(home, name, volume, spec.limits, spec.inputs, uid)
        else:
            volumes.make_plain(home, name, volume, spec.inputs, uid)
        with suppress(FileExistsError):
            os.mkfifo(record.folder / "wake", 0o600)
        given = docker_spec.Place(
            installation=home.id,
            image=image.id,
            uid=uid,
            volume=volume,
            etc=etc,
            cgroup_parent=f"/{cgroups.TOP}/{home.id}/{name}/{docker_spec.GROUP}",
            digest=records.digest(spec),
            launched_at=time.time(),
            environment=image.environment,
            links=image.links,
            runtime=self._runtime,
        )
        container = self._create(name, docker_spec.create(spec, given))
        return self._plan_container(spec, image, volume, groups, container)

    def _create(self, name: str, body: dict[str, Any]) -> str:
        for last in (False, True):
            try:
                told = self._engine.client.create_container_from_config(body, name)
            except docker.errors.APIError as error:
                if error.status_code != 409 or last:
                    raise
                # Left by a launch of ours that was interrupted, or somebody else's.
                if not self._destroy(name):
                    raise ConflictError(f"The container {name} is not one of this installation.") from error
            else:
                return str(told["Id"])
        raise AssertionError("the last round returns or raises")

    def _plan_container(
        self, spec: Spec, image: images.Image, volume: Path, groups: cgroups.Hierarchy, container: str
    ) -> dict[str, Any]:
        home, disk = self._installation, os.statvfs(volume)
        isolation = {found.promise: found.mechanism for found in self.capabilities() if found.held}
        if spec.storage == "none":
            isolation["S5"] = "not held: the spec asks for storage without a quota"
        box = f"{spec.name}/{docker_spec.GROUP}"
        return {
            "container": spec.name,
            "id": container,
            "socket": self._engine.socket,
            "version": self._engine.version,
            "owner": [home.uid, home.gid],
            "volume": str(volume),
            "quota": spec.storage == "loop",
            "free": disk.f_bfree * disk.f_frsize,
            "wall_s": spec.limits.wall_s,
            "output_bytes": spec.limits.output_bytes,
            "memory_bytes": translate.memory_bytes(spec.limits),
            "denied_forks": translate.DENIED_FORKS,
            "tasks": docker_spec.tasks(spec.limits),
            "tasks_peak": str(groups.folders["pids"] / cgroups.TOP / home.id / box / "pids.peak"),
            "gauges": cgroups.gauges(groups, home.id, spec.name),
            "inner": cgroups.gauges(groups, home.id, f"{box}/{container}"),
            "image": f"{image.repository}@{image.id}",
            "isolation": isolation,
            "fresh": False,
        }

    def _go(self, shim: Starting, plan: dict[str, Any]) -> None:
        try:
            shim.go({**plan, "fresh": True})
        except SandboxUnavailableError as error:
            raise docker_engine.no_gpu() if docker_engine.is_no_gpu(str(error)) else error from None

    def _supervise_again(self, record: Record) -> None:
        """Give a container a supervisor, which also finds the end of one that has ended; without one it is lost."""
        plan = record.read("plan.json")
        try:
            state = self._engine.client.inspect_container(record.name)["State"] if plan else None
        except docker.errors.NotFound:
            state = None
        except docker_engine.ERRORS as error:
            raise docker_engine.unavailable(error) from error
        if plan is None or state is None or state["Status"] == "created":
            self._record_loss(record)
            return
        Starting(record, program=_SHIM).go(plan)

    def _release(self, record: Record) -> None:
        """Take back everything an execution was given, its container first; the state folder stays."""
        home, name, place = self._installation, record.name, self._place(record.name)
        self._destroy(name)
        self._end_shim(record)
        volumes.unmount(place)
        volumes.remove(home, name, place / "volume")
        shutil.rmtree(place, ignore_errors=True)
        if self._every:
            docker_engine.remove_below(self._every, home.id, name)
            cgroups.remove(self._every, home.id, name)
        uids.release(home.run_dir, f"{home.id}/{name}")

    def _destroy(self, name: str, patience_s: float = 10.0) -> bool:
        """Kill and remove a container of ours, and wait until it is gone; False when it is not ours, and stays."""
        deadline = time.monotonic() + patience_s
        try:
            while True:
                labels = self._engine.client.inspect_container(name)["Config"]["Labels"] or {}
                if labels.get(f"{docker_spec.LABEL}.installation") != self.installation:
                    return False
                try:
                    self._engine.client.remove_container(name, v=True, force=True)
                except docker.errors.APIError as error:
                    # Somebody else removes it at this moment.
                    if error.status_code != 409 or time.monotonic() > deadline:
                        raise
                    time.sleep(0.02)
        except docker.errors.NotFound:
            return True
        except docker_engine.ERRORS as error:
            raise docker_engine.unavailable(error) from error

    def _known(self) -> set[str]:
        """Return every name of ours that is left anywhere on this machine."""
        chosen = {"label": f"{docker_spec.LABEL}.installation={self.installation}"}
        try:
            listed = self._engine.client.containers(all=True, filters=chosen)
        except docker_engine.ERRORS as error:
            raise docker_engine.unavailable(error) from error
        found = {one["Labels"].get(f"{docker_spec.LABEL}.name", "") for one in listed}
        groups = cgroups.names(self._every, self.installation) if self._every else set()
        return super()._known() | {name for name in found | groups if NAME.match(name)}
