"""A sandbox whose programs are functions: what they leave is there at once, and intake is the real one."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fumehood.domain.execution import Capability, Ended, Outcome, Running, Spec, Usage, Verdict
from fumehood.errors import ConflictError, NotFoundError
from sandbox import intake, records

USAGE = Usage(wall_s=1.0, cpu_s=1.0, peak_memory_mib=10.0, peak_storage_mib=1.0)


@dataclass(frozen=True, kw_only=True)
class Did:
    """What a program did."""

    verdict: Verdict = Verdict.SUCCEEDED
    files: Mapping[str, bytes] = field(default_factory=dict)
    output: str = ""
    usage: Usage = USAGE


Act = Callable[[Spec], Did | None]
"""A program: None means that it runs until it is stopped."""


class InstantSandbox:
    """Keeps the port's words for programs that are functions of their spec."""

    def __init__(self, act: Act) -> None:
        self.act = act
        self.image = "sha256:instant"
        self.specs: dict[str, Spec] = {}
        self.did: dict[str, Did | None] = {}
        self.launched: list[Spec] = []
        self.keys: dict[str, bytes] = {}

    def launch(self, spec: Spec) -> None:
        known = self.specs.get(spec.name)
        if known is not None:
            if records.digest(known) != records.digest(spec):
                raise ConflictError(f"The name {spec.name} is taken.")
            return
        self.did[spec.name] = self.act(spec)
        self.specs[spec.name] = spec
        self.launched.append(spec)
        for item in spec.inputs:
            if item.path == "in/key":
                self.keys[spec.name] = Path(item.source).read_bytes()

    def inspect(self, name: str) -> Running | Ended:
        did = self._did(name)
        if did is None:
            return Running(started_at=0.0)
        return Ended(verdict=did.verdict, exit_code=0, started_at=0.0, ended_at=1.0, usage=Usage(wall_s=1.0))

    def follow(self, name: str, offset: int = 0) -> bytes:
        did = self._did(name)
        return did.output.encode()[offset:] if did else b""

    def stop(self, name: str, reason: str) -> None:
        if self._did(name) is None:
            self.did[name] = Did(verdict=Verdict(reason), output="stopped")

    def collect(self, name: str, into: Path) -> Outcome:
        did = self._did(name)
        if did is None:
            raise ConflictError(f"{name} is still running.")
        spec = self.specs[name]
        with tempfile.TemporaryDirectory() as work:
            for path, data in did.files.items():
                place = Path(work) / path
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(data)
            artifacts, rejected = intake.collect(Path(work), into, spec.collect)
        return Outcome(
            name=name,
            verdict=did.verdict,
            exit_code=0 if did.verdict is Verdict.SUCCEEDED else 1,
            usage=did.usage,
            output_tail=did.output,
            truncated=False,
            artifacts=artifacts,
            rejected=rejected,
            image=self.image,
            isolation={"S1": "held"},
        )

    def remove(self, name: str) -> None:
        self.specs.pop(name, None)
        self.did.pop(name, None)

    def reap(self, older_than_s: float = 0.0, keep: Sequence[str] = ()) -> tuple[str, ...]:  # noqa: ARG002
        gone = tuple(name for name in self.specs if name not in keep)
        for name in gone:
            self.remove(name)
        return gone

    def traces(self) -> Mapping[str, tuple[str, ...]]:
        return dict.fromkeys(sorted(self.specs), ("state",))

    def held(self) -> tuple[str, ...]:
        return tuple(self.specs)

    def capabilities(self) -> tuple[Capability, ...]:
        return ()

    def _did(self, name: str) -> Did | None:
        if name not in self.did:
            raise NotFoundError(f"There is no execution {name}.")
        return self.did[name]
