"""What programs compute on here, as exactly as it changes the numbers that they come to."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

from fumehood.domain.execution import Device

CPUINFO = Path("/proc/cpuinfo")
_NAMED = ("model name", "cpu family", "model", "CPU implementer", "CPU part")
"""What tells one processor from another: on x86 the first three, on ARM the last two."""
_ARITHMETIC = re.compile(r"(avx|amx|fma|f16c|asimd|sve|bf16|i8mm).*")
"""Instructions that libraries choose their kernels by; a virtual machine may hide some of them."""
_GPU = re.compile(r"GPU (\d+): (.+?) \(UUID: (GPU-[^)]+)\)")
_SLICE = re.compile(r"\s+MIG (\S+)\s+Device\s+(\d+): \(UUID: (MIG-[^)]+)\)")
_ANSWER_S = 30.0


def device(gpus: Sequence[str]) -> Device:
    """Return what an execution computes on that has these GPUs, as the engine names them."""
    return Device(processor=_here(), gpu=_gpus(tuple(gpus)) if gpus else "")


@cache
def _here() -> str:
    try:
        return processor(CPUINFO.read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return ""


def processor(told: str) -> str:
    """Return the model of the first processor that `/proc/cpuinfo` tells of, and its instructions for arithmetic."""
    first = told.strip().partition("\n\n")[0].splitlines()
    said = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in first)}
    named = [said[name] if name == "model name" else f"{name} {said[name]}" for name in _NAMED if name in said]
    flags = said.get("flags", said.get("Features", "")).split()
    known = sorted(flag for flag in flags if _ARITHMETIC.fullmatch(flag))
    return ", ".join([*named, *([" ".join(known)] if known else [])])


@cache
def _gpus(gpus: tuple[str, ...]) -> str:
    listed = _told("-L")
    drivers = _told("--query-gpu=driver_version", "--format=csv,noheader").split()
    return models(gpus, listed, drivers)


def models(gpus: Sequence[str], listed: str, drivers: Iterable[str]) -> str:
    """Return the kinds of these GPUs, by `+`, and their driver; empty where one of them is not known.

    Args:
        gpus: By index, UUID, or a slice's UUID or `GPU:SLICE`.
        listed: What `nvidia-smi -L` prints.
        drivers: The driver's version, for each GPU.
    """
    names: dict[str, str] = {}
    index = whole = ""
    for line in listed.splitlines():
        if found := _GPU.match(line):
            index, whole, uuid = found.groups()
            names[index] = names[uuid] = whole
        elif found := _SLICE.match(line):
            size, number, uuid = found.groups()
            names[f"{index}:{number}"] = names[uuid] = f"{whole} MIG {size}"
    versions = sorted({*drivers})
    if not versions or not all(one in names for one in gpus):
        return ""
    return f"{' + '.join(sorted({names[one] for one in gpus}))}, driver {' '.join(versions)}"


def _told(*asked: str) -> str:
    try:
        done = subprocess.run(
            ["nvidia-smi", *asked], capture_output=True, text=True, errors="replace", timeout=_ANSWER_S, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return ""  # nobody knows then, and nothing is taken for the same
    return done.stdout
