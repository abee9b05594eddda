"""The Docker adapter: one hardened container, one volume and one detached supervisor for each execution."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import docker.errors

from fumehood.domain.execution import NAME, Capability, Spec
from fumehood.errors import ConflictError, SandboxUnavailableError
from sandbox import (
    admission,
    cgroups,
    docker_engine,
    docker_promises,
    docker_runtime,
    docker_spec,
    lab,
    records,
    traces,
)
from sandbox import limits as translate
from sandbox.cgroups import Hierarchy
from sandbox.docker_engine import Engine
from sandbox.egress import inside, rules
from sandbox.egress.rules import Rules
from sandbox.host import HostSandbox
from sandbox.image import build as images
from sandbox.image import derive
from sandbox.lab import Root
from sandbox.records import Record
from sandbox.starting import Starting
from sandbox.storage.choose import Wanted, wanted
from sandbox.traces import Trace

if TYPE_CHECKING:
    from fumehood.settings import Settings

_SHIM = Path(__file__).with_name("docker_shim.py")


class DockerSandbox(HostSandbox):
    """Runs each execution as a container."""

    def __init__(
        self,
        engine: Engine,
        state_dir: Path,
        run_dir: Path,
        roots: Mapping[str, Root] | None = None,
        *,
        ceilings: translate.Ceilings | None = None,
        egress: Rules | None = None,
        storage: Wanted | None = None,
        labs: Path | None = None,
        runtime: str = "",
    ) -> None:
        super().__init__(state_dir, run_dir, roots, ceilings=ceilings, egress=egress, storage=storage, labs=labs)
        self._engine = engine
        self._runtime = docker_runtime.find(runtime, engine.runtimes)
        self._every = docker_engine.every_hierarchy(self._groups)
        self._ready: set[str] = set()
        """Images that were there once."""

    @classmethod
    def connect(cls, settings: Settings) -> Self:
        """Return the sandbox of the engine that answers here, or raise with what is missing."""
        engine = docker_engine.connect()
        found = lab.find(settings.state_dir, settings.lab_dir)
        return cls(
            engine,
            settings.state_dir,
            settings.run_dir,
            found,
            ceilings=translate.of(settings),
            egress=rules.of(settings),
            storage=wanted(settings),
            labs=settings.derived_labs,
            runtime=settings.docker_runtime,
        )

    def launch(self, spec: Spec) -> None:
        """Start the execution, or adopt the one of that name and spec."""
        try:
            super().launch(spec)
        except docker_engine.ERRORS as error:
            raise docker_engine.unavailable(error) from error

    def capabilities(self) -> tuple[Capability, ...]:
        """Say what holds each promise here."""
        return self._with_quota(docker_promises.capabilities(self._groups, self._runtime))

    def _admit(self, spec: Spec) -> Hierarchy:
        admission.check_text(spec)
        self._ceilings.check(spec)
        docker_spec.check(spec)
        if inside.has_way_out(spec):
            docker_runtime.require_sockets(self._runtime)
        self._root(spec.image)
        return docker_promises.require(self._every)

    def _root(self, image: str) -> Root:
        if image == "latex":
            # Made of packages, so it does not depend on what this machine has itself.
            return images.latex()
        return super()._root(image)

    def image_id(self, name: str) -> str:
        """Return the engine's id of an image, which is built where it is missing."""
        return self._image(name).id

    def _image(self, name: str) -> images.Image:
        home, root = self._installation, self._root(name)
        if root.base is not None:
            return derive.ensure(self._engine, home.state_dir, home.run_dir, root, root.base)
        return images.ensure(self._engine, home.state_dir, home.run_dir, root)

    def _make_ready(self, spec: Spec) -> None:
        if spec.image not in self._ready:
            self._image(spec.image)
            self._ready.add(spec.image)

    def _begin(self, record: Record, spec: Spec, groups: Hierarchy) -> Starting:
        # What stands above the program is counted here, and not what does so in the local adapter.
        processes = self._runtime.tasks(spec.limits.processes) - translate.SUPERVISORS
        shim = Starting(record, program=_SHIM)
        try:
            cgroups.make(groups, self.installation, spec.name, replace(spec.limits, processes=processes))
            docker_engine.make_below(groups, self.installation, spec.name, docker_spec.GROUP)
        except BaseException:
            shim.abandon()
            raise
        return shim

    def _write_etc(self, folder: Path, uid: int) -> None:
        docker_spec.write_etc(folder, uid)

    def _plan(self, spec: Spec, groups: Hierarchy, uid: int) -> dict[str, Any]:
        home, name, image = self._installation, spec.name, self._image(spec.image)
        place = self._place(name)
        given = docker_spec.Place(
            installation=home.id,
            image=image.id,
            uid=uid,
            volume=place / "volume",
            etc=place / "etc",
            cgroup_parent=f"/{cgroups.TOP}/{home.id}/{name}/{docker_spec.GROUP}",
            digest=records.digest(spec),
            launched_at=time.time(),
            environment=image.environment,
            links=image.links,
            runtime=self._runtime,
            egress=self._door.folder(name) if inside.has_way_out(spec) else None,
        )
        container = self._create(name, docker_spec.create(spec, given))
        box = f"{name}/{docker_spec.GROUP}"
        return {
            "container": name,
            "id": container,
            "socket": self._engine.socket,
            "version": self._engine.version,
            "tasks": self._runtime.tasks(spec.limits.processes),
            "tasks_peak": str(groups.folders["pids"] / cgroups.TOP / home.id / box / "pids.peak"),
            "gauges": cgroups.gauges(groups, home.id, name),
            "inner": cgroups.gauges(groups, home.id, f"{box}/{container}"),
            "image": f"{image.repository}@{image.id}",
            "fresh": False,
        }

    def _create(self, name: str, body: dict[str, Any]) -> str:
        for last in (False, True):
            try:
                told = self._engine.client.create_container_from_config(body, name)
            except docker.errors.APIError as error:
                if error.status_code != 409 or last:
                    raise
                # Left by a launch of ours that was interrupted, or somebody else's.
                if not self._remove(name):
                    raise ConflictError(f"The container {name} is not one of this installation.") from error
            else:
                return str(told["Id"])
        raise AssertionError("the last round returns or raises")

    def _go(self, shim: Starting, plan: dict[str, Any]) -> None:
        try:
            shim.go({**plan, "fresh": True})
        except SandboxUnavailableError as error:
            if docker_engine.is_no_gpu(str(error)):
                raise docker_engine.no_gpu(str(error)) from None
            self._engine.require()
            raise

    def _resume(self, record: Record) -> None:
        """Give a container a supervisor, which also finds the end of one that has ended; without one it is lost."""
        plan = record.read("plan.json")
        try:
            # Whoever looks has others to look at too, so an engine that stalls is not waited for.
            state = self._engine.hasty().inspect_container(record.name)["State"] if plan else None
        except docker.errors.NotFound:
            state = None
        except docker_engine.ERRORS as error:
            raise docker_engine.unavailable(error) from error
        if plan is None or state is None or state["Status"] == "created":
            self._record_loss(record)
            return
        Starting(record, program=_SHIM).go(plan)

    def _end(self, name: str) -> None:
        if self._groups:
            cgroups.kill(self._groups, self.installation, name)
        plan = self._record(name).read("plan.json")
        if plan and self._every:
            cgroups.kill(self._every, self.installation, f"{name}/{docker_spec.GROUP}/{plan['id']}")

    def _destroy(self, name: str) -> None:
        # A foreign one of that name stays.
        self._remove(name)

    def _remove_groups(self, name: str) -> None:
        if self._every:
            docker_engine.remove_below(self._every, self.installation, name)
            cgroups.remove(self._every, self.installation, name)

    def _remove(self, name: str, patience_s: float = 10.0) -> bool:
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

    def _traces(self) -> list[Trace]:
        """Return everything of ours that is left anywhere on this machine."""
        chosen = {"label": f"{docker_spec.LABEL}.installation={self.installation}"}
        try:
            listed = self._engine.client.containers(all=True, filters=chosen)
        except docker_engine.ERRORS as error:
            raise docker_engine.unavailable(error) from error
        named = [(one["Labels"].get(f"{docker_spec.LABEL}.name", ""), float(one["Created"])) for one in listed]
        found = [Trace(name, "container", since) for name, since in named if NAME.match(name)]
        return found + traces.find(self._installation, self._every)
