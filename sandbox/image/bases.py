"""A base image as the tree that our images are made from: had from the engine, or from a registry that it reaches."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import docker.errors

from fumehood.errors import SandboxUnavailableError
from sandbox import docker_engine
from sandbox.docker_engine import Engine

_LABEL = "fumehood-base"
"""No execution can be labelled so: theirs begin with `fumehood.`."""


def find(engine: Engine, name: str) -> str:
    """Return `name@id` of a base image, which is pulled where the engine does not have it."""
    try:
        told = engine.client.inspect_image(name)
    except docker.errors.ImageNotFound:
        try:
            engine.patient().pull(name)
            told = engine.client.inspect_image(name)
        except docker_engine.ERRORS as error:
            said = str(getattr(error, "explanation", "") or error)
            raise SandboxUnavailableError(
                f"The engine does not have the base image {name}, and no registry gives it: {said}",
                remedy="Build without --base, which uses debootstrap; or make a base with it and import that "
                "(docs/images.md).",
                reason="no_image",
            ) from error
    return f"{name.partition('@')[0]}@{told['Id']}"


def unpack(engine: Engine, base: str, tree: Path) -> None:
    """Write the files of a base image to a folder; its programs are not started for that."""
    tree.mkdir(parents=True)
    client = engine.patient()
    for left in client.containers(all=True, filters={"label": _LABEL}):
        # Of a build that was interrupted: only one builds at a time.
        client.remove_container(left["Id"], force=True)
    container = client.create_container(base.rpartition("@")[2], ["/bin/true"], labels={_LABEL: "1"})["Id"]
    try:
        # Its devices are not taken over: those of a tree are made where they are needed.
        command = ["tar", "-x", "-C", str(tree), "--numeric-owner", "--anchored", "--exclude=dev/*"]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as unpacking:
            assert unpacking.stdin is not None, "it was asked for"  # noqa: S101 - narrows the type
            for chunk in client.export(container):
                unpacking.stdin.write(chunk)
            _, said = unpacking.communicate()
    except BrokenPipeError as error:
        raise SandboxUnavailableError(f"The base image {base} could not be unpacked.", reason="no_image") from error
    finally:
        client.remove_container(container, force=True)
    if unpacking.returncode:
        why = said.decode(errors="replace").strip()[-300:]
        raise SandboxUnavailableError(f"The base image {base} could not be unpacked: {why}", reason="no_image")
    for name, minor in (("null", 3), ("zero", 5), ("random", 8), ("urandom", 9)):
        os.mknod(tree / "dev" / name, 0o666 | 0o020000, os.makedev(1, minor))
        (tree / "dev" / name).chmod(0o666)
