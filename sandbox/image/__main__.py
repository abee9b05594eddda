"""Builds the images that this machine's executions use: `python -m sandbox.image [plain] [lab] [latex]`."""

from __future__ import annotations

import sys

from fumehood.errors import BadInputError, FumehoodError, SandboxUnavailableError
from fumehood.settings import Settings
from sandbox import lab
from sandbox.docker_engine import connect
from sandbox.image import build


def main(names: list[str]) -> int:
    """Build what is named, or all that can be built here; the exit status."""
    try:
        settings = Settings()
        if unknown := sorted(set(names) - set(build.NAMES)):
            raise BadInputError(f"The images are {', '.join(build.NAMES)}, not {', '.join(unknown)}.")
        engine = connect()
        roots = lab.find(settings.state_dir, settings.lab_dir) | {"latex": build.latex()}
        if "lab" not in roots and "lab" in (names or build.NAMES):
            raise SandboxUnavailableError("There is no lab yet.", remedy="Run `make setup`.", reason="no_image")
        wanted = [roots[name] for name in names or build.NAMES]
        build.build(engine, settings.state_dir, settings.run_dir, wanted)
        for root in wanted:
            image = build.ensure(engine, settings.state_dir, settings.run_dir, root)
            print(f"{image.repository} {image.id}")
    except FumehoodError as error:
        print(error, file=sys.stderr)
        return error.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
