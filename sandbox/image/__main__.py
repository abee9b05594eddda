"""Builds the images that this machine's executions use: `python -m sandbox.image [plain] [lab] [latex] [--base IMAGE]`.

Without `--base` they are made with `debootstrap` from the packages of this machine's own distribution; with it from
that image, for example `debian:bookworm-slim`, which is pulled where the engine does not have it.
"""

from __future__ import annotations

import argparse
import sys

from fumehood.errors import BadInputError, FumehoodError, SandboxUnavailableError
from fumehood.settings import Settings
from sandbox import lab
from sandbox.docker_engine import connect
from sandbox.image import build


def main(words: list[str]) -> int:
    """Build what is named, or all that can be built here; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m sandbox.image", description="Build the images of executions.")
    parser.add_argument("names", nargs="*", help=f"some of {', '.join(build.NAMES)}; all of them when none is named")
    parser.add_argument("--base", default="", help="the image to start from, or debootstrap")
    asked = parser.parse_args(words)
    names: list[str] = asked.names
    try:
        settings = Settings()
        if unknown := sorted(set(names) - set(build.NAMES)):
            raise BadInputError(f"The images are {', '.join(build.NAMES)}, not {', '.join(unknown)}.")
        engine = connect()
        roots = lab.find(settings.state_dir, settings.lab_dir) | {"latex": build.latex()}
        if "lab" not in roots and "lab" in (names or build.NAMES):
            raise SandboxUnavailableError("There is no lab yet.", remedy="Run `make setup`.", reason="no_image")
        wanted = [roots[name] for name in names or build.NAMES]
        build.build(engine, settings.state_dir, settings.run_dir, wanted, asked.base)
        for root in wanted:
            image = build.ensure(engine, settings.state_dir, settings.run_dir, root)
            print(f"{image.repository} {image.id}")
    except FumehoodError as error:
        print(error, file=sys.stderr)
        return error.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
