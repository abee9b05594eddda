"""Builds the adapters from the settings, once for each process, and imports each only where it is built."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from fumehood.artifacts.choose import open_artifacts
from fumehood.artifacts.local import LocalArtifacts
from fumehood.artifacts.signing import Ed25519Signer, derive_key, installation_secret
from fumehood.domain.extra_packages import LAB, image_of
from fumehood.domain.ids import DirectionId
from fumehood.domain.machine import Machine
from fumehood.domain.worker import Part
from fumehood.errors import FumehoodError, MachineUnfitError
from fumehood.gateway import tokens
from fumehood.ports import Artifacts, Coder
from fumehood.services import extra_packages, templates
from fumehood.services.known_templates import KnownTemplates
from fumehood.services.public_data import FetchedData
from fumehood.services.world import RunWorld, WriteWorld
from fumehood.settings import Settings
from fumehood.store.clock import SystemClock
from sandbox import lab
from sandbox.derived import build as derived
from sandbox.limits import machine_ceilings

if TYPE_CHECKING:
    from fumehood.llm.client import GatewayModel
    from fumehood.store.sql import SqlStore

SHIPPED = Path(__file__).resolve().parents[1] / "templates"
"""The templates that come with Fumehood."""
IMAGE_PACKAGES = frozenset(
    {
        *(
            "torch",
            "torchgen",
            "functorch",
            "numpy",
            "scipy",
            "sklearn",
            "pandas",
            "matplotlib",
            "mpl_toolkits",
            "pylab",
        ),
        *(
            "tqdm",
            "einops",
            "ema_pytorch",
            "PIL",
            "joblib",
            "sympy",
            "mpmath",
            "networkx",
            "jinja2",
            "fsspec",
            "filelock",
        ),
        *("cloudpickle", "dateutil", "packaging", "contourpy", "cycler", "kiwisolver", "pyparsing", "fontTools"),
        *("typing_extensions", "threadpoolctl", "narwhals", "markupsafe", "setuptools"),
    }
)
"""What the images of executions hold beside the standard library, for workers that have no lab to look at."""
_LOCK = ".lock"


def known_templates(settings: Settings) -> KnownTemplates:
    """Return what reads templates with the data that were fetched for them."""
    return KnownTemplates(fetched=FetchedData(settings.data_dir))


def prepare_state(settings: Settings) -> None:
    """Make the state folder, private to its owner, and bring the database up to date."""
    try:
        settings.state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not os.access(settings.state_dir, os.W_OK | os.X_OK):
            raise PermissionError("it is not writable")
    except OSError as error:
        raise MachineUnfitError(
            f"The state folder {settings.state_dir} cannot be used: {error.strerror or error}.",
            remedy="Set FUMEHOOD_STATE_DIR to a folder that you may write to.",
        ) from error
    from fumehood.store import migrate

    migrate.upgrade(settings.resolved_database_url)


def store_of(settings: Settings) -> SqlStore:
    """Open the database."""
    from fumehood.store.sql import SqlStore

    return SqlStore(settings.resolved_database_url)


def artifacts_of(settings: Settings) -> Artifacts:
    """Open the bucket, or the folder, of artifacts."""
    return open_artifacts(settings)


def write_world(settings: Settings, gateway_url: str) -> WriteWorld:
    """Build what a write worker holds."""
    from fumehood.gateway.fetch_client import GatewayFetcher
    from fumehood.latex.typesetter import Latex
    from fumehood.literature.index import LocalIndex
    from fumehood.llm.client import GatewayModel
    from fumehood.llm.prompts import PackagedPrompts
    from fumehood.services import screening
    from fumehood.services.presence import Presence

    clock = SystemClock()
    model = GatewayModel(gateway_url, tokens.secret_of(settings), clock)
    return WriteWorld(
        store=store_of(settings),
        artifacts=artifacts_of(settings),
        clock=clock,
        model=model,
        coder=coder_of(settings, gateway_url, model),
        literature=LocalIndex(),
        prompts=PackagedPrompts(),
        typesetter=Latex(),
        fetcher=GatewayFetcher(gateway_url, tokens.secret_of(settings), clock),
        policy=screening.load(settings.policy),
        confirm=settings.confirm.given(),
        replicate=settings.replicate,
        packages=lab_packages(settings) or IMAGE_PACKAGES,
        extra_imports=partial(_imports_of, settings),
        model_tries=settings.model_tries,
        presence=Presence(Part.WRITE, clock),
    )


def coder_of(settings: Settings, gateway_url: str, model: GatewayModel) -> Coder:
    """Return Aider where its environment was made, else our own coder."""
    from fumehood.llm.aider import AiderCoder
    from fumehood.llm.aider_sessions import AiderSessions
    from fumehood.llm.search_replace import SearchReplaceCoder

    python = coder_python(settings)
    if python is None:
        return SearchReplaceCoder(model)
    secret = tokens.secret_of(settings)
    return AiderCoder(AiderSessions(python), gateway_url, secret, SystemClock(), cap_usd=settings.coder_cap_usd)


def coder_python(settings: Settings) -> Path | None:
    """Return the interpreter of the coder's environment: the one set, or the one that `make setup` made."""
    python = settings.coder_python or SHIPPED.parent / ".venv-coder/bin/python"
    return python if python.is_file() else None


def _machine(settings: Settings) -> Machine:
    """Return what executions share: what is set, and never more memory than there is."""
    memory_mib = machine_ceilings().memory_mib or 0
    return Machine(
        cpus=settings.at_once_cpus or float(os.cpu_count() or 1),
        memory_mib=min(settings.at_once_memory_mib or memory_mib, memory_mib),
    )


def run_world(settings: Settings, adapter: str, gateway_url: str = "") -> RunWorld:
    """Build what a run worker holds. It never asks the gateway itself; executions that may are led there."""
    from fumehood.services.presence import Presence
    from sandbox.choose import choose
    from sandbox.device import device

    settings = settings.model_copy(update={"gateway_url": gateway_url}) if gateway_url else settings
    secret, clock = installation_secret(settings.state_dir), SystemClock()
    return RunWorld(
        device=device,
        gpus=settings.gpus,
        gpu_memory_mib=settings.gpu_memory_mib,
        machine=_machine(settings),
        store=store_of(settings),
        artifacts=artifacts_of(settings),
        clock=clock,
        sandbox=choose(adapter, settings),
        signer=Ed25519Signer(settings.state_dir),
        derive_key=lambda context: derive_key(secret, context),
        presence=Presence(Part.RUN, clock),
    )


@contextmanager
def only_one(path: Path) -> Iterator[bool]:
    """Hold a lock file while the block runs; yields False when somebody else holds it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


def command_lock(settings: Settings, direction_id: DirectionId) -> Path:
    """Return the lock of the command that carries a direction out."""
    return _commands(settings) / f"{direction_id}{_LOCK}"


def of_commands(settings: Settings) -> frozenset[DirectionId]:
    """Return the directions that a command began or went on with; a server leaves them to it, also afterwards.

    Its command may have a provider's key that the server lacks, and what a person interrupted stays so.
    """
    return frozenset(DirectionId(path.name.removesuffix(_LOCK)) for path in _commands(settings).glob(f"*{_LOCK}"))


def _commands(settings: Settings) -> Path:
    return settings.state_dir / "directions"


def lab_folder(settings: Settings) -> Path:
    """Return the folder of packages that an experiment may import."""
    return settings.lab_dir or settings.state_dir / "lab" / "current"


def lab_packages(settings: Settings) -> frozenset[str]:
    """Return the names that can be imported from the lab; empty when there is none."""
    folder = lab_folder(settings) / "site-packages"
    if not folder.is_dir():
        return frozenset()
    return frozenset(item.name.removesuffix(".py").split(".")[0] for item in folder.iterdir())


def build_lab(
    settings: Settings, template_files: Mapping[str, str], artifacts: Artifacts, say: Callable[[str], None]
) -> Path | None:
    """Build the lab that a direction's template files ask for, where it is not there; None where the lab will do.

    Raises the errors of `sandbox.derived.build.ensure`. No execution does this, and no submission over the network.
    """
    image = image_of(template_files)
    if image == LAB:
        return None
    base = lab_folder(settings).resolve()
    if not (base / "lab.json").is_file():
        raise MachineUnfitError("There is no lab yet that packages could be added to.", remedy="Run `make setup`.")
    asked = extra_packages.read(template_files, artifacts)
    wheels = {name: artifacts.path(sha) for name, sha in asked.wheels.items()}
    return derived.ensure(settings.derived_labs, base, derived.Asked(image=image, packages=asked, wheels=wheels), say)


def extra_imports(settings: Settings, template_files: Mapping[str, str]) -> frozenset[str]:
    """Return the names that can be imported from a direction's own lab beside the lab's; empty where it is not here."""
    return _imports_of(settings, image_of(template_files))


def _imports_of(settings: Settings, image: str) -> frozenset[str]:
    return lab.derived_imports(settings.derived_labs, lab_folder(settings), image)


def build_installed_labs(settings: Settings, say: Callable[[str], None]) -> None:
    """Build the labs of the templates that a server offers; what cannot be built is said, and its directions end so."""
    folder = settings.templates_dir or SHIPPED
    for name in templates.names(folder):
        with tempfile.TemporaryDirectory(prefix="fumehood-lab-") as scratch:
            artifacts = LocalArtifacts(Path(scratch))
            try:
                files = templates.snapshot(folder / name, artifacts)
                template = templates.load(files, artifacts, name)
                build_lab(settings, extra_packages.settle(files, artifacts, template), artifacts, say)
            except FumehoodError as error:
                say(f"the extra packages of {name} are not there: {error}")
