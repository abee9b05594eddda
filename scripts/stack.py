"""Brings the whole platform up on this machine, or takes it down: `python3 -B scripts/stack.py up|down|pin`.

It needs root, as the run side does: secrets are handed to the users who read them, and folders are made mount points.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import newer_debian
import stack_secrets
from common import CANNOT, ROOT, as_root, give_up, run, say

COMPOSE = ROOT / "compose.yaml"
ENV = ROOT / ".env"
ALSO_TOLD = ("COMPOSE_FILE", "COMPOSE_PROJECT_NAME", "DOCKER_HOST", "MINIO_IMAGE", "FUMEHOOD_POLICY")
PINNED = ("POSTGRES_IMAGE", "REDIS_IMAGE", "S3_IMAGE", "FUMEHOOD_BASE")
"""Images that others make."""


def main(words: list[str]) -> int:
    """Do what the first word says; the exit status."""
    commands = {"up": up, "down": down, "pin": pin}
    if not words or words[0] not in commands:
        say(f"the stack: {' or '.join(commands)}?")
        return 2
    if words[0] != "pin" and os.geteuid() != 0:
        return run(_with_sudo(words))
    os.chdir(ROOT)
    return commands[words[0]](*words[1:])


def _with_sudo(words: list[str]) -> list[str | Path]:
    """Return this command for root, with the variables that say what is meant: sudo hands on none."""
    names = [*re.findall(r"\$\{(\w+)", COMPOSE.read_text(encoding="utf-8")), *ALSO_TOLD]
    told = [f"{name}={os.environ[name]}" for name in dict.fromkeys(names) if name in os.environ]
    line = ["env", *told, sys.executable, "-B", str(ROOT / "scripts/stack.py"), *words]
    command = as_root(line)
    if command is None:
        give_up(
            "the stack needs root, and there is no password-free sudo here; please run:", f"  sudo {shlex.join(line)}"
        )
    return list(command)


def up(*options: str) -> int:
    """Make what is missing, and start everything; options go to `docker compose up` in the place of `--build`."""
    told = settings()
    prepare(told)
    made = stack_secrets.ensure(_from_root(told["FUMEHOOD_SECRETS"]))
    if made:
        say(f"made in {told['FUMEHOOD_SECRETS']}: {', '.join(made)}")
    status = compose("up", "--detach", "--wait", *(options or ("--build",)))
    if status == 0:
        key = f"{told['FUMEHOOD_SECRETS']}/fumehood_api_key"
        say(f"the API answers at http://{told['FUMEHOOD_PUBLISH']}; its key is in {key}")
    return status


def down(*options: str) -> int:
    """Stop everything; with `-v` the database, the artifacts and all other volumes go too."""
    return compose("down", *options)


def pin(*_: str) -> int:
    """Write into `.env` by which digest each image of others is known; nothing where no registry answers."""
    told, seen = settings(), {}
    for name in PINNED:
        digest = _digest(told[name])
        if not digest:
            say(f"no registry gives {told[name]}, so nothing is pinned; try again where one can be reached")
            return CANNOT
        seen[name] = digest
    kept = [line for line in _lines(ENV) if line.partition("=")[0] not in seen]
    ENV.write_text("\n".join([*kept, *(f"{name}={digest}" for name, digest in seen.items()), ""]), encoding="utf-8")
    say(f"pinned in .env: {', '.join(seen)}")
    return 0


def settings() -> dict[str, str]:
    """Return the variables of compose.yaml as compose would: the environment over `.env` over the defaults."""
    found = dict(re.findall(r"\$\{(\w+):-([^}]*)\}", COMPOSE.read_text(encoding="utf-8")))
    pairs = (line.partition("=") for line in _lines(ENV) if line and not line.startswith("#"))
    found |= {name.strip(): value.strip().strip("'\"") for name, _, value in pairs}
    return found | {name: os.environ[name] for name in found if os.environ.get(name)}


def prepare(told: dict[str, str]) -> None:
    """Make the folders of the run side, and let mounts below them be seen by the engine and by each other."""
    for name, mode in (("FUMEHOOD_STATE_DIR", 0o700), ("FUMEHOOD_RUN_DIR", 0o711)):
        folder = Path(told[name])
        folder.mkdir(mode=mode, parents=True, exist_ok=True)
        share(folder)
    (Path(told["FUMEHOOD_STATE_DIR"]) / "public").mkdir(mode=0o755, exist_ok=True)


def share(folder: Path) -> None:
    """Make a folder part of a shared mount; most machines have one anyway."""
    asked = ["findmnt", "--noheadings", "--output", "PROPAGATION", "--target", str(folder)]
    if "shared" in subprocess.run(asked, capture_output=True, text=True, check=True).stdout:
        return
    mounted = [line.split()[1] for line in Path("/proc/mounts").read_text(encoding="utf-8").splitlines()]
    if below := [place for place in mounted if place.startswith(f"{folder}/")]:
        # The new mount would hide them from those who use them.
        give_up(f"{folder} is to become a shared mount, and {below[0]} is mounted in it; stop what uses that first")
    say(f"{folder} becomes a shared mount until the next boot, so that volumes mounted in it reach the engine")
    subprocess.run(["mount", "--bind", str(folder), str(folder)], check=True)
    subprocess.run(["mount", "--make-shared", str(folder)], check=True)


def compose(*words: str) -> int:
    """Run Docker Compose on this project."""
    return run([newer_debian.compose(), *words])


def _digest(image: str) -> str:
    if "@sha256:" in image:
        return image
    if run(["docker", "pull", "--quiet", image]):
        return ""
    asked = ["docker", "image", "inspect", "--format", '{{join .RepoDigests "\\n"}}', image]
    told = subprocess.run(asked, capture_output=True, text=True).stdout.splitlines()
    return next((line for line in told if "@sha256:" in line), "")


def _from_root(path: str) -> Path:
    return (ROOT / path).resolve()


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines() if path.is_file() else []


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
