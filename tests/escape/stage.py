"""All cases of one adapter, each as it is and each without its protection, several at a time."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

from ulid import ULID

from fumehood.domain.execution import Kind, Limits, Spec
from sandbox import docker_engine, lab, uids
from sandbox.docker import DockerSandbox
from sandbox.egress.capabilities import asks_model
from sandbox.egress.rules import Rules
from sandbox.host import HostSandbox
from sandbox.local import LocalSandbox
from tests.escape.cases import Case
from tests.escape.loosened import Segment, listen
from tests.escape.models import ModelHouse
from tests.escape.scene import NEIGHBOUR, Scene, Seen, make_input
from tests.escape.weakened import WeakDocker, WeakLocal, Weakness
from tests.escape.world import Listeners, World
from tests.leaks import RUN_DIR, identity

AS_IT_IS, WITHOUT = "as it is", "without"
"""The two ways in which a case is carried out."""
AT_ONCE = 4
READY_S = 20.0
SECRET = "ANTHROPIC_API_KEY"


class Stage:
    """One adapter on a state folder of its own, and the canaries that all its cases share."""

    def __init__(self, adapter: str, folder: Path) -> None:
        self.adapter, self.folder = adapter, folder
        self.state_dir = folder / "state"
        self.state_dir.mkdir(mode=0o700)
        self.house = Path(tempfile.mkdtemp(prefix="fumehood-escape-"))
        self.house.chmod(0o755)
        self._furnish()
        self.runtime = "runsc" if adapter == "docker-runsc" else ""
        self.sandbox = self._build()

    def _furnish(self) -> None:
        for name in ("engine", "shm", "packages", "foreign"):
            (self.house / name).mkdir()
        for name in ("shm", "packages"):
            (self.house / name).chmod(0o1777)
        (self.house / "foreign" / "unfamiliar.py").write_text("here = True\n", encoding="ascii")
        (self.house / "shm" / "fumehood-canary").write_bytes(b"of the host")
        # The null device under another number's name: reading and writing it does nothing.
        os.mknod(self.house / "device", 0o020666, os.makedev(1, 3))
        (self.house / "device").chmod(0o666)
        self.segment = Segment()
        self._engine = listen(self.house / "engine" / "docker.sock")

    def _build(self, weakness: Weakness | None = None, egress: Rules | None = None) -> HostSandbox:
        """Return the adapter, or one without some of its protections; `egress` leads capabilities to canaries."""
        given: tuple[Any, ...] = (self.state_dir, RUN_DIR, {**lab.find(self.state_dir)})
        if self.adapter == "local":
            return WeakLocal(weakness, *given, egress=egress) if weakness else LocalSandbox(*given, egress=egress)
        engine = docker_engine.connect()
        if weakness:
            return WeakDocker(weakness, engine, *given, runtime=self.runtime, egress=egress)
        return DockerSandbox(engine, *given, runtime=self.runtime, egress=egress)

    def play(self, case: Case, mode: str) -> Seen:
        """Carry out one case, as it is or without its protection."""
        folder = self.folder / f"{case.name}-{mode.replace(' ', '-')}"
        folder.mkdir(mode=0o700)
        off = frozenset(case.already) | (case.off(self.adapter) if mode == WITHOUT else frozenset())
        with _Company(self, case, folder, off) as company:
            return company.scene().play()

    def play_all(self, wanted: Iterable[tuple[Case, str]]) -> dict[tuple[str, str], Seen | BaseException]:
        """Carry out many, the timed ones by themselves afterwards."""
        wanted = list(wanted)
        found: dict[tuple[str, str], Seen | BaseException] = {}

        def play(one: tuple[Case, str]) -> None:
            try:
                found[one[0].name, one[1]] = self.play(*one)
            except BaseException as error:  # noqa: BLE001 - told where the case is judged
                found[one[0].name, one[1]] = error

        # The long ones first, so that none is left to run alone at the end.
        together = sorted((one for one in wanted if not one[0].alone), key=lambda one: -_length(one[0]))
        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(play, together))
        for one in wanted:
            if one[0].alone:
                play(one)
        return found

    def close(self) -> None:
        """Take the canaries away; what the sandbox may have left stays for the leak counter."""
        self._engine.close()
        self.segment.close()
        shutil.rmtree(self.house)


class _Company:
    """What one case has around it: listeners, a neighbour, a world."""

    def __init__(self, stage: Stage, case: Case, folder: Path, off: frozenset[str]) -> None:
        self._stage, self._case, self._folder, self._off = stage, case, folder, off
        self._world: World | None = None
        self._holder = self._neighbour = ""
        self._listeners: Listeners | None = None
        self._models: ModelHouse | None = None
        self._sandbox = stage.sandbox
        self._weakness: Weakness | None = None

    def __enter__(self) -> Self:
        name = self._folder.name
        try:
            if "network" in self._off:
                process = self._hold() if self._stage.adapter != "local" else None
                self._world = World(name, process)
                self._listeners = self._world.listeners
            elif "listeners" in self._case.needs:
                self._listeners = Listeners(name)
            if asks_model(self._case.network):
                self._models = ModelHouse(self._off)
            self._prepare()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _prepare(self) -> None:
        weakness = Weakness(
            off=self._off,
            house=self._stage.house,
            world=self._world,
            holder=self._holder,
            environment={SECRET: "the worker's key"},
            folders=[self._stage.house],
        )
        self._weakness = weakness
        if self._off or self._case.network != "none":
            self._sandbox = self._stage._build(weakness if self._off else None, self._egress())
        if "neighbour" in self._case.needs:
            self._neighbour = self._launch_neighbour()
            claimed = uids.claims(RUN_DIR, identity(self._stage.state_dir))
            weakness.uid = claimed[self._neighbour]
            place = RUN_DIR / identity(self._stage.state_dir) / self._neighbour / "volume" / "work"
            weakness.folders = [self._stage.house, place]

    def _egress(self) -> Rules | None:
        models = self._models.gateway if self._models else None
        if self._listeners is None or self._case.network == "none":
            return Rules(models=models) if models else None
        place = f"http://127.0.0.1:{self._listeners.port}"
        doubles = dict.fromkeys(("semantic-scholar", "openalex", "arxiv"), place)
        return Rules(interval_s=0.0, doubles=doubles, models=models)

    def scene(self) -> Scene:
        """Return the case, ready to be played."""
        stage = self._stage
        return Scene(
            case=self._case,
            sandbox=self._sandbox,
            state_dir=stage.state_dir,
            folder=self._folder,
            house=stage.house,
            segment=stage.segment.key,
            listeners=self._listeners,
            neighbour=self._neighbour,
            models=self._models,
        )

    def __exit__(self, *_: object) -> None:
        for proxy in self._weakness.proxies if self._weakness else ():
            proxy.close()
        if self._neighbour:
            self._sandbox.remove(self._neighbour)
        if self._world:
            self._world.close()
        elif self._listeners:
            self._listeners.close()
        if self._models:
            self._models.close()
        if self._holder:
            self._stage.sandbox._engine.client.remove_container(self._holder, force=True)  # type: ignore[attr-defined]

    def _launch_neighbour(self) -> str:
        name = f"fh-{ULID()}".lower()
        inputs = (make_input(self._folder, "work/neighbour.py", NEIGHBOUR.read_bytes()),)
        limits = Limits(wall_s=60.0, memory_mib=128, storage_mib=16, processes=16, output_bytes=10_000)
        command = ("python3", "neighbour.py")
        self._sandbox.launch(
            Spec(name=name, kind=Kind.RUN, image="plain", command=command, inputs=inputs, limits=limits)
        )
        patience = time.monotonic() + READY_S
        while b"on" not in self._sandbox.follow(name):
            if time.monotonic() > patience:
                raise TimeoutError("the neighbour did not begin")
            time.sleep(0.02)
        return name

    def _hold(self) -> int:
        """Start a container whose only use is its network; its first process."""
        sandbox = self._stage.sandbox
        assert isinstance(sandbox, DockerSandbox)
        client, image = sandbox._engine.client, sandbox._image("plain").id
        labels = {"fumehood.installation": sandbox.installation, "fumehood.name": "holder"}
        body = client.create_container(
            image, ["sleep", "120"], labels=labels, host_config=client.create_host_config(network_mode="none")
        )
        self._holder = str(body["Id"])
        client.start(self._holder)
        return int(client.inspect_container(self._holder)["State"]["Pid"])


def _length(case: Case) -> float:
    limited = float(case.limits.get("wall_s", 0.0))
    return limited + float(case.limits.get("storage_mib", 32)) / 100
