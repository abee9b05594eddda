"""The image of a derived lab: one layer over the lab's image, with the extra packages and nothing else."""

from __future__ import annotations

import hashlib
import json
import tarfile
import tempfile
from contextlib import suppress
from pathlib import Path

import docker.errors

from fumehood.domain.extra_packages import EXTRA
from sandbox.docker_engine import Engine
from sandbox.image import archive, build
from sandbox.image.build import LABEL, Image
from sandbox.lab import Root

REPOSITORY = "fumehood-lab-extra"
FORMAT = 1
"""Goes into the hash: raised when the same inputs make a different image."""
_MAKING = "fumehood-derive"
"""No execution can be labelled so: theirs begin with `fumehood.`."""


def ensure(engine: Engine, state_dir: Path, run_dir: Path, root: Root, base: Root) -> Image:
    """Return the image of a root that is derived from another one; what is missing of the two is made first."""
    below = build.ensure(engine, state_dir, run_dir, base)
    name = f"{REPOSITORY}:{_key(root, below)}"
    if not (identity := _find(engine, name)):
        with build.locked(run_dir):
            if not (identity := _find(engine, name)):
                identity = _make(engine, root, below, name)
                prune(engine, below)
    return Image(repository=REPOSITORY, id=identity, base=below.base, environment=root.environment, links=below.links)


def _key(root: Root, below: Image) -> str:
    told = [FORMAT, below.id, root.digest, dict(root.environment)]
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:32]


def _find(engine: Engine, name: str) -> str:
    try:
        return str(engine.client.inspect_image(name)["Id"])
    except docker.errors.ImageNotFound:
        return ""


def _make(engine: Engine, root: Root, below: Image, name: str) -> str:
    """Lay the packages over an image; the layer gets its name only when all of it is there, and nothing is started."""
    client = engine.patient()
    for left in client.containers(all=True, filters={"label": _MAKING}):
        # Of one that was interrupted: only one is made at a time.
        client.remove_container(left["Id"], force=True)
    container = client.create_container(below.id, ["/bin/true"], labels={_MAKING: "1"})["Id"]
    changes = [f"ENV {key}={value}" for key, value in root.environment.items()]
    changes += [f'LABEL {LABEL}.image="{REPOSITORY}"', f'LABEL {LABEL}.below="{below.id}"']
    try:
        with tempfile.TemporaryFile() as packed:
            with tarfile.open(fileobj=packed, mode="w|", format=tarfile.PAX_FORMAT) as made:
                archive.add_packages(made, root.folders[EXTRA], Path(EXTRA).name)
            packed.seek(0)
            client.put_archive(container, str(Path(EXTRA).parent), packed)
        repository, _, tag = name.partition(":")
        return str(client.commit(container, repository, tag, changes=changes)["Id"])
    finally:
        client.remove_container(container, force=True)


def prune(engine: Engine, below: Image) -> None:
    """Remove the images that lie over another version of the lab, and that no container uses."""
    used = {one["ImageID"] for one in engine.client.containers(all=True)}
    for one in engine.client.images(REPOSITORY, filters={"label": f"{LABEL}.image={REPOSITORY}"}):
        if one["Id"] not in used and (one["Labels"] or {}).get(f"{LABEL}.below") != below.id:
            for name in [name for name in one["RepoTags"] or () if name.startswith(f"{REPOSITORY}:")]:
                # In use since a moment, or removed.
                with suppress(docker.errors.APIError):
                    engine.client.remove_image(name)
