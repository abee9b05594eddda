"""Runs pip so that it can start no other program: `python -S -s -P alone.py RUNNER install ...`.

Wheels are files that are unpacked. Anything else (a source distribution, a repository) is built by programs of its own,
whatever an option says of it: a wheel may need such a thing by its address. Standard library only; it is started by the
lab's interpreter.
"""

from __future__ import annotations

import runpy
import sys

REFUSED = "nothing may be started to install a package"
_STARTS = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.forkpty")


def _refuse(event: str, _: object) -> None:
    if event in _STARTS:
        raise PermissionError(REFUSED)


if __name__ == "__main__":
    sys.addaudithook(_refuse)
    sys.argv = sys.argv[1:]
    runpy.run_path(sys.argv[0], run_name="__main__")
