"""The lab: the packages an experiment may import, with the interpreter they were installed for.

`python3 scripts/lab.py` builds `STATE_DIR/lab/<hash>/` and points `STATE_DIR/lab/current` to it. The hash covers what
decides about its content, so a lab that is there is never changed; a build that was interrupted is never taken for one.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from common import ROOT, alone, give_up, group, key_of, must_run, run, say, set_stamp, stamp, state_dir, timed
from python_packages import PackageSources, interpreters, package_sources, uv, version_of

FORMAT = 1
"""Goes into the hash: raised when this script makes something different from the same packages."""
VERSIONS = ((3, 11), (3, 12))
CONSTRAINTS = ROOT / "constraints-lab.txt"
CHOICES = ("auto", "cpu", "cuda")

TRIMMED = "fsspec joblib matplotlib mpl_toolkits mpmath networkx numpy pandas scipy sklearn sympy torch".split()  # noqa: SIM905
"""Packages whose own test suites are left out: many files, and no experiment imports them."""
BUILD_PARTS = ("torch/test", "torch/share", "torch/bin/protoc*", "torch/lib/*.a", "bin")
HEADERS = "torch/include"
"""Used to compile extensions; kept where there is a GPU, since kernels are compiled there."""
IMPORTS = """
import numpy.testing, pandas.testing, tqdm, einops, ema_pytorch, matplotlib, networkx
matplotlib.use("Agg")
import matplotlib.pyplot, scipy.stats, scipy.optimize, scipy.signal, scipy.spatial, scipy.io, scipy.sparse.linalg
import sklearn.datasets, sklearn.ensemble, sklearn.manifold, sklearn.linear_model
import torch, torch.nn.functional, torch.utils.data, torch.testing, torch.distributions, torch.func
assert float((torch.ones(3) @ torch.ones(3))) == 3.0
matplotlib.pyplot.figure().savefig("/dev/null", format="png")
"""


@dataclass(frozen=True, kw_only=True)
class Torch:
    """One way to get torch: for which interpreter, which build, and what to tell uv."""

    interpreter: Path
    build: str
    options: tuple[str, ...] = ()
    extra: tuple[str, ...] = ()


def ensure() -> None:
    """Build the lab where it is not there yet, and make it the current one."""
    choice = os.environ.get("FUMEHOOD_TORCH", "auto")
    if choice not in CHOICES:
        say(f"FUMEHOOD_TORCH is {choice!r}; it may be {', '.join(CHOICES)}")
        raise SystemExit(2)
    sources = package_sources()
    labs = state_dir() / "lab"
    inputs = key_of(
        constraints=constraints(),
        wanted=group("lab"),
        choice=choice,
        gpu=has_gpu(),
        sources=sources,
        labs=labs,
        format=FORMAT,
    )
    told = stamp("lab").split()
    if len(told) == 2 and told[0] == inputs and is_whole(labs / told[1]):
        point_to(labs, told[1])
        return
    os.umask(0o022)  # a sandbox's own user reads it
    try:
        labs.mkdir(parents=True, exist_ok=True)
        with alone(labs / ".lock"):
            name = _build(labs, choose(choice, sources), sources)
    except PermissionError as error:
        give_up(
            f"the lab goes to {labs}, which cannot be written to ({error}); set FUMEHOOD_STATE_DIR to a folder of yours"
        )
    set_stamp("lab", f"{inputs} {name}")


def is_whole(folder: Path) -> bool:
    """Tell whether a lab is there, and its interpreter still is."""
    with contextlib.suppress(OSError, ValueError, KeyError):
        return Path(json.loads((folder / "lab.json").read_text(encoding="utf-8"))["python"]).exists()
    return False


def has_gpu() -> bool:
    """Tell whether an NVIDIA driver is loaded here."""
    return Path("/dev/nvidiactl").exists() or Path("/proc/driver/nvidia/version").exists()


def constraints() -> list[str]:
    """Return the versions that the lab is made of; what the file says about itself decides nothing."""
    return [line for line in CONSTRAINTS.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]


def torch_version() -> str:
    """Return the release of torch that the lab names."""
    return next(entry.partition("==")[2] for entry in group("lab") if entry.startswith("torch=="))


# which torch


def choose(choice: str, sources: PackageSources) -> Torch:
    """Return the build of torch that fits: the CPU's where there is no GPU, from the nearest place that has it."""
    found = interpreters(VERSIONS)
    if not found:
        give_up(
            "the lab needs Python 3.11 or 3.12, and neither is here; on Debian and Ubuntu: sudo apt-get install python3"
        )
    version = torch_version()
    if choice == "cuda" or (choice == "auto" and has_gpu()):
        return _cuda(found[0], version, sources)
    for interpreter in found:
        if resolves(interpreter, [f"torch=={version}+cpu"], sources):
            return Torch(interpreter=interpreter, build="cpu", extra=(f"torch=={version}+cpu",))
    from_pytorch = Torch(interpreter=found[0], build="cpu", options=("--torch-backend", "cpu"))
    say(f"no CPU build of torch {version} where pip looks; trying PyTorch's own index")
    if resolves(found[0], [f"torch=={version}"], sources, *from_pytorch.options):
        return from_pytorch
    return _ordinary(choice, found[0], version, sources)


def _cuda(interpreter: Path, version: str, sources: PackageSources) -> Torch:
    # A CPU build that pip's find-links hold counts as newer than the plain release, and must not win here.
    no_cpu = (f"torch!={version}+cpu",)
    if resolves(interpreter, [f"torch=={version}", *no_cpu], sources, "--torch-backend", "auto"):
        return Torch(interpreter=interpreter, build="cuda", options=("--torch-backend", "auto"), extra=no_cpu)
    return Torch(interpreter=interpreter, build="cuda", extra=no_cpu)


def _ordinary(choice: str, interpreter: Path, version: str, sources: PackageSources) -> Torch:
    told = resolution(interpreter, [f"torch=={version}"], sources)
    if told is None:
        give_up(f"no torch {version} for {interpreter} to be found in any package index that this machine reaches")
    if "nvidia-" not in told:
        return Torch(interpreter=interpreter, build="cpu")
    only = f"the only torch {version} within reach brings NVIDIA's libraries (about 2 GB to load, 5 GB on disk)"
    if choice == "cpu":
        give_up(f"{only}, and FUMEHOOD_TORCH=cpu rules that out; name a place that has the CPU build in PIP_FIND_LINKS")
    say(f"{only}; taking it, as this machine reaches no CPU build (FUMEHOOD_TORCH=cpu would refuse)")
    return Torch(interpreter=interpreter, build="cuda")


def resolves(interpreter: Path, wanted: list[str], sources: PackageSources, *options: str) -> bool:
    """Tell whether uv finds these for an interpreter; nothing is installed."""
    return resolution(interpreter, wanted, sources, *options) is not None


def resolution(interpreter: Path, wanted: list[str], sources: PackageSources, *options: str) -> str | None:
    """Return what uv would install, or None."""
    command = [
        uv(),
        "pip",
        "compile",
        "--quiet",
        "--no-header",
        "--python",
        interpreter,
        *sources.options(),
        *options,
        "-",
    ]
    environment = {"UV_HTTP_RETRIES": "1", **sources.environment()}
    ended = subprocess.run(
        command, input="\n".join(wanted), env=environment, capture_output=True, text=True, errors="replace"
    )
    return ended.stdout if ended.returncode == 0 else None


# building


def _build(labs: Path, torch: Torch, sources: PackageSources) -> str:
    minor = ".".join(str(part) for part in version_of(torch.interpreter) or ())
    name = key_of(constraints=constraints(), wanted=group("lab"), python=minor, torch=torch.build, format=FORMAT)
    if not is_whole(labs / name):
        for left in labs.glob(".building-*"):
            shutil.rmtree(left)
        fresh = labs / f".building-{name[:12]}"
        with timed(f"the lab (torch {torch_version()}, {torch.build} build, Python {minor}), into {labs / name}"):
            _install(fresh / "site-packages", torch, sources)
            trim(fresh / "site-packages", keep_headers=torch.build != "cpu")
            # Some packages carry a module for newer Pythons, which does not compile here and is never imported.
            run([torch.interpreter, "-m", "compileall", "-qq", "-j", "0", fresh / "site-packages"])
            _check(fresh / "site-packages", torch.interpreter)
            described = {"python": str(torch.interpreter), "version": minor, "hash": name, "torch": torch.build}
            described |= {"packages": packages_in(fresh / "site-packages")}
            (fresh / "lab.json").write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")
            readable_by_all(fresh)
            shutil.rmtree(labs / name, ignore_errors=True)
            fresh.replace(labs / name)
            say(f"the lab takes {size_mib(labs / name)} MiB")
    point_to(labs, name)
    return name


def _install(folder: Path, torch: Torch, sources: PackageSources) -> None:
    must_run(
        [
            *(
                uv(),
                "pip",
                "install",
                "--quiet",
                "--target",
                folder,
                "--python",
                torch.interpreter,
                *sources.options(),
                *torch.options,
            ),
            # Copies: a lab whose files were links into uv's cache would change with it.
            *("--link-mode", "copy", "--constraints", CONSTRAINTS, *group("lab"), *torch.extra),
        ],
        "installing the lab's packages",
        env=sources.environment(),
    )


def trim(site: Path, *, keep_headers: bool) -> None:
    """Leave out what no experiment imports: the packages' own tests, and what compiles extensions."""
    for package in TRIMMED:
        for folder in [place for place in (site / package).rglob("tests") if place.is_dir()]:
            shutil.rmtree(folder, ignore_errors=True)
    for pattern in [*BUILD_PARTS, *([] if keep_headers else [HEADERS])]:
        for place in site.glob(pattern):
            shutil.rmtree(place) if place.is_dir() else place.unlink()


def _check(site: Path, interpreter: Path) -> None:
    environment = {"PYTHONPATH": str(site), "PYTHONDONTWRITEBYTECODE": "1", "MPLCONFIGDIR": str(site.parent / "mpl")}
    failed = run([interpreter, "-c", IMPORTS], env=environment | {"PATH": "/usr/bin:/bin"}, quiet=True)
    shutil.rmtree(site.parent / "mpl", ignore_errors=True)
    if failed:
        shutil.rmtree(site.parent)
        say("the lab's packages do not import; what Python said stands above")
        raise SystemExit(1)


def packages_in(site: Path) -> list[str]:
    """Return `name==version` of every package in a folder."""
    from importlib.metadata import distributions

    return sorted({f"{found.metadata['Name'].lower()}=={found.version}" for found in distributions(path=[str(site)])})


def readable_by_all(folder: Path) -> None:
    """Let every user read what lies below: a sandbox has a user of its own."""
    for parent, _, files in os.walk(folder):
        Path(parent).chmod(0o755)
        for file in files:
            place = Path(parent, file)
            if not place.is_symlink():
                place.chmod(0o755 if place.stat().st_mode & 0o100 else 0o644)


def size_mib(folder: Path) -> int:
    """Return what a folder takes on disk."""
    return sum(place.lstat().st_blocks * 512 for place in folder.rglob("*")) >> 20


def point_to(labs: Path, name: str) -> None:
    """Make one lab the current one, at once and never half."""
    current = labs / "current"
    if current.is_symlink() and current.readlink() == Path(name):
        return
    fresh = labs / f".current-{os.getpid()}"
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(name)
    fresh.replace(current)
    (labs / name / "lab.json").touch()


if __name__ == "__main__":
    sys.exit(ensure())
