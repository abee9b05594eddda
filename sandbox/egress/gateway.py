# A plain script, as the shims are.
# ruff: noqa: PTH100, PTH120
"""The gateway of one execution: `python -I -S gateway.py STATE_FOLDER LOCK READY`, its plan on standard input.

It opens what it needs, becomes a user that has nothing, answers on its socket, and ends with its execution. It holds
the lock on `egress.lock` while it lives. A killed one makes requests fail until another is started in its place.
"""

from __future__ import annotations

import os
import sys

if not __package__:
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))

from sandbox.supervisor import leave


def main() -> None:
    """Leave the caller, make ready what takes time, and serve once the plan is told."""
    folder, _, ready, _ = leave()
    import site

    site.main()
    from sandbox.egress import answering

    with os.fdopen(0, "rb") as file:
        told = file.read()
    if told:
        answering.run(folder, ready, told)


if __name__ == "__main__":
    main()
