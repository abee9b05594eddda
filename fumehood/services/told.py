"""What a run says of itself in `parameters.json`: its word, which no gauge of ours can check."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from fumehood.domain.execution import Outcome

FILE = "parameters.json"
GPU_MEMORY = "peak_gpu_memory_mib"
_MOST_BYTES, _MOST_MIB = 1024 * 1024, 4 * 1024 * 1024


def with_gpu_memory(outcome: Outcome, folder: Path) -> Outcome:
    """Add the most of a GPU's memory that a program says it took; `folder` holds what was let out."""
    for item in outcome.artifacts:
        if Path(item.path).name == FILE and item.bytes <= _MOST_BYTES:
            told = gpu_memory_mib((folder / item.path).read_bytes())
            return dataclasses.replace(outcome, usage=dataclasses.replace(outcome.usage, told_gpu_memory_mib=told))
    return outcome


def gpu_memory_mib(data: bytes) -> float:
    """Return `peak_gpu_memory_mib` of such a file; 0 where it says none that can be true."""
    try:
        told = json.loads(data)
    except (ValueError, RecursionError):
        return 0.0
    value = told.get(GPU_MEMORY) if isinstance(told, dict) else None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return 0.0
    return float(value) if 0 < value <= _MOST_MIB else 0.0
