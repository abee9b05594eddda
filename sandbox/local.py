"""The local adapter: bubblewrap, control groups and hard volumes, with one detached shim for each execution."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fumehood.domain.execution import Capability, Spec
from fumehood.errors import SandboxUnavailableError
from sandbox import admission, bubblewrap, cgroups, kernel, lab, machine, seccomp
from sandbox import limits as translate
from sandbox.cgroups import Hierarchy
from sandbox.egress import inside as way_out
from sandbox.host import HostSandbox
from sandbox.lab import Root
from sandbox.records import Record
from sandbox.starting import Starting

_OPEN_TO_ALL = ("/usr", "/etc", "/var/lib/texmf", "/var/cache/fontconfig")


class LocalSandbox(HostSandbox):
    """Runs each execution under bwrap."""

    def capabilities(self) -> tuple[Capability, ...]:
        """Say what holds each promise here."""
        return self._with_quota(machine.capabilities(self._groups))

    def _admit(self, spec: Spec) -> Hierarchy:
        groups = admission.check(spec, self._ceilings, self._groups)
        self._root(spec.image)
        return groups

    def _make_ready(self, spec: Spec) -> None:
        """Do nothing: what an image is made of lies on the host already."""

    def _begin(self, record: Record, spec: Spec, groups: Hierarchy) -> Starting:
        cgroups.make(groups, self.installation, spec.name, spec.limits)
        gauges = cgroups.gauges(groups, self.installation, spec.name)
        return Starting(record, gauges["join"])

    def _write_etc(self, folder: Path, uid: int) -> None:  # noqa: ARG002 - inside, all of them are the same user
        bubblewrap.write_etc(folder)

    def _plan(self, spec: Spec, groups: Hierarchy, uid: int) -> dict[str, Any]:
        home, root = self._installation, self._root(spec.image)
        rules = home.executions / spec.name / "seccomp.bpf"
        rules.write_bytes(seccomp.program())
        return {
            "uid": uid,
            "bwrap": machine.bwrap(),
            "arguments": self._arguments(spec, root),
            "command": [*bubblewrap.STARTER, *way_out.command(spec)],
            "seccomp": str(rules),
            "oom_score": translate.OOM_SCORE,
            "rlimits": {f"RLIMIT_{name}": value for name, value in translate.rlimits(spec.limits).items()},
            "image": lab.digest(root),
            "gauges": cgroups.gauges(groups, self.installation, spec.name),
        }

    def _arguments(self, spec: Spec, root: Root) -> list[str]:
        place = self._place(spec.name)
        return bubblewrap.arguments(
            volume=place / "volume",
            etc=place / "etc",
            folders=self._show(place, root),
            links={**root.links, **({"/data": "work/data"} if spec.has_data else {})},
            environment={**root.environment, **spec.environment, **way_out.environment(spec)},
            limits=spec.limits,
            egress=self._door.folder(spec.name) if way_out.has_way_out(spec) else None,
        )

    def _show(self, place: Path, root: Root) -> dict[str, Path]:
        """Bind what lies in private folders of the host to where the execution's uid can reach it."""
        shown = {}
        for number, (inside, source) in enumerate(sorted(root.folders.items())):
            if any(source.is_relative_to(top) for top in _OPEN_TO_ALL):
                shown[inside] = source
                continue
            shown[inside] = place / f"root{number}"
            shown[inside].mkdir()
            kernel.bind(source, shown[inside], kernel.RDONLY | kernel.NOSUID | kernel.NODEV)
        return shown

    def _resume(self, record: Record) -> None:
        # An execution never survives its shim.
        self._record_loss(record)

    def _end(self, name: str) -> None:
        if self._groups:
            cgroups.kill(self._groups, self.installation, name)

    def _destroy(self, name: str) -> None:
        if self._groups and not cgroups.kill(self._groups, self.installation, name):
            raise SandboxUnavailableError(f"The processes of {name} cannot be ended.", reason="unkillable")

    def _remove_groups(self, name: str) -> None:
        if self._groups:
            cgroups.remove(self._groups, self.installation, name)
