"""What this machine can do: the sandbox tried for real, LaTeX, the lab, keys."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from fumehood.cli.children import check_machine
from fumehood.errors import FumehoodError
from fumehood.gateway.keys import Keys
from fumehood.settings import Settings
from worker import worlds


def examine(settings: Settings, adapter: str) -> dict[str, Any]:
    """Return what `fumehood doctor` says."""
    try:
        told = check_machine(settings, adapter)
        error = ""
    except FumehoodError as failure:
        told, error = {"promises": [], "adapter": adapter}, str(failure)
    return {
        "ready": not error,
        "error": error,
        "adapter": told["adapter"],
        "promises": told["promises"],
        "state_dir": str(settings.state_dir),
        "root": os.geteuid() == 0,
        "lab": str(worlds.lab_folder(settings).resolve()) if worlds.lab_packages(settings) else None,
        "coder": "aider" if worlds.coder_python(settings) else "search_replace",
        "keys": list(Keys(settings.state_dir).list()),
        "gpus": [str(path) for path in sorted(Path("/dev").glob("nvidia[0-9]*"))],
    }


def describe(told: Mapping[str, Any]) -> Iterable[str]:
    """Return `fumehood doctor` as lines."""
    yield f"sandbox: {told['adapter']}"
    for one in told["promises"]:
        yield f"  {one['promise']:>3} {'held' if one['held'] else 'NOT HELD'}: {one['mechanism']}"
    yield f"state: {told['state_dir']}"
    yield f"lab: {told['lab'] or 'not built; run `make setup`'}"
    yield f"coder: {told['coder']}"
    yield f"keys: {', '.join(told['keys']) or 'none; the offline model needs none'}"
    yield f"GPUs: {', '.join(told['gpus']) or 'none'}"
    yield f"not ready: {told['error']}" if told["error"] else "ready"
