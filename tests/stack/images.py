"""The images of the stack's test, where no registry answers: made from packages, and once for the same content."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from sandbox.image import debian

ROOT = Path(__file__).parents[2]
OURS = ("api", "gateway", "run", "write")
SERVICES = ("postgres", "redis", "s3")
CONTEXT = ("api", "worker", "sandbox", "fumehood", "templates", "pyproject.toml", "constraints.txt")
CONTEXT += ("constraints-coder.txt", "README.md", "LICENSE", ".dockerignore")
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
BASE_PACKAGES = ("ca-certificates",)
LABEL = "fumehood-test.checkout"


def ensure() -> dict[str, str]:
    """Return the variables of compose.yaml that name these images, which are built first where they are missing."""
    base = _base()
    ours = _build(ROOT / "images/platform.Dockerfile", _sources(), OURS, base)
    others = [ROOT / "constraints.txt", ROOT / "tests/stack/postgres.sh"]
    services = _build(ROOT / "tests/stack/services.Dockerfile", others, SERVICES, base)
    return {f"FUMEHOOD_{name.upper()}_IMAGE": image for name, image in ours.items()} | {
        f"{name.upper()}_IMAGE": image for name, image in services.items()
    }


def _base() -> str:
    """A small Debian of this machine's own suite."""
    name = f"fumehood-test-base:{_hash([], debian.codename(), *BASE_PACKAGES)}"
    if not _is_there(name):
        # Not below /tmp, which may be mounted so that no devices can be made there.
        with TemporaryDirectory(dir="/var/tmp", prefix="fumehood-test-base-") as folder:
            tree = Path(folder) / "tree"
            tree.mkdir()
            debian.make(tree, BASE_PACKAGES)
            shutil.rmtree(tree / "var/lib/apt/lists")
            shutil.rmtree(tree / "var/cache/apt")
            # The certificates of this machine are an argument of each build, and part of no base.
            (tree / "tmp/certificates.crt").unlink(missing_ok=True)
            with subprocess.Popen(["tar", "-c", "-C", tree, "."], stdout=subprocess.PIPE) as packing:
                subprocess.run(["docker", "import", "-", name], stdin=packing.stdout, check=True, capture_output=True)
    return name


def _sources() -> list[Path]:
    listed = ["git", "-c", f"safe.directory={ROOT}", "ls-files", "-co", "--exclude-standard", "-z", "--", *CONTEXT]
    told = subprocess.run(listed, cwd=ROOT, capture_output=True, check=True).stdout.decode()
    return [path for name in told.split("\0") if name and (path := ROOT / name).is_file()]


def _build(recipe: Path, files: Iterable[Path], targets: Iterable[str], base: str) -> dict[str, str]:
    files = sorted([recipe, *files])
    key = _hash(files, base)
    found = {target: f"fumehood-test-{target}:{key}" for target in targets}
    if not all(map(_is_there, found.values())):
        with _context(files) as folder:
            for target, image in found.items():
                _docker_build(folder, recipe, target, image, base)
                _remove_older(target, image)
    return found


def _docker_build(folder: Path, recipe: Path, target: str, image: str, base: str) -> None:
    given = {"BASE": base} | ({"CA_BUNDLE": "ca-bundle.crt"} if CERTIFICATES.is_file() else {})
    command: list[str | Path] = ["docker", "build", "--file", folder / recipe.name, "--target", target, "--tag", image]
    command += [word for name, value in given.items() for word in ("--build-arg", f"{name}={value}")]
    # The engine's first builder needs no plugin of the command's and no registry; BuildKit may need both.
    environment = {**os.environ, "DOCKER_BUILDKIT": "0"}  # noqa: TID251 - docker is found and reached as for a person
    command += ["--label", f"{LABEL}={_hash([], str(ROOT))}", folder]
    built = subprocess.run(command, env=environment, capture_output=True, text=True, errors="replace")
    assert built.returncode == 0, (built.stdout + built.stderr)[-3000:]


def _remove_older(target: str, image: str) -> None:
    """Remove the images that an earlier state of this checkout was built into."""
    mine = f"label={LABEL}={_hash([], str(ROOT))}"
    asked = [
        "docker",
        "image",
        "ls",
        "--filter",
        mine,
        "--format",
        "{{.Repository}}:{{.Tag}}",
        f"fumehood-test-{target}",
    ]
    older = set(subprocess.run(asked, capture_output=True, text=True, check=True).stdout.split()) - {image}
    if older:
        subprocess.run(["docker", "image", "rm", "--no-prune", *sorted(older)], capture_output=True)


@contextmanager
def _context(files: Iterable[Path]) -> Iterator[Path]:
    """Copy files to a folder that the engine is given; those of this package lie at its top."""
    with TemporaryDirectory(prefix="fumehood-test-context-") as place:
        folder = Path(place)
        for path in files:
            is_ours = path.parent in {ROOT / "images", ROOT / "tests/stack"}
            copy = folder / (path.name if is_ours else path.relative_to(ROOT))
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, copy)
        if CERTIFICATES.is_file():
            shutil.copy(CERTIFICATES, folder / "ca-bundle.crt")
        yield folder


def _hash(files: Iterable[Path], *words: str) -> str:
    found = hashlib.sha256("\0".join(words).encode())
    for path in files:
        found.update(f"\0{path.relative_to(ROOT)}\0".encode() + path.read_bytes())
    return found.hexdigest()[:24]


def _is_there(image: str) -> bool:
    return subprocess.run(["docker", "image", "inspect", image], capture_output=True).returncode == 0


if __name__ == "__main__":
    ensure()
