"""Runs a program and counts how often torch's optimisers made an update, beside what the program says of its steps.

`python counted.py --descriptor=5 experiment.py --out_dir=...`; at the end `{"updates": 160}` is written there.
Of a program that does not use torch's optimisers nothing is counted, which is 0. It counts inside the program's own
process: what patches torch could deceive it, and the audit of edits refuses that.
"""

from __future__ import annotations

import importlib
import json
import os
import runpy
import sys
from pathlib import Path


def main() -> None:
    """Run the program as if it had been started itself."""
    descriptor = int(sys.argv[1].removeprefix("--descriptor="))
    sys.argv = sys.argv[2:]
    sys.path[0] = str(Path(sys.argv[0]).resolve().parent)
    seen = {"updates": 0}

    def update(*_: object) -> None:
        seen["updates"] += 1

    if any(b"torch" in path.read_bytes() for path in Path(sys.path[0]).rglob("*.py")):
        importlib.import_module("torch.optim")
        importlib.import_module("torch.optim.optimizer").register_optimizer_step_post_hook(update)
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    finally:
        os.write(descriptor, json.dumps(seen).encode())


if __name__ == "__main__":
    main()
