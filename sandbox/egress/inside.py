"""What an execution with a way out sees of it: a read-only folder, some variables, a forwarder before its command."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from fumehood.domain.execution import LLM, Spec
from sandbox.egress import capabilities
from sandbox.egress.pair import is_relayed

FOLDER = "/egress"
"""Where the folder is mounted. Never the socket itself: one that is made anew would not be seen any more."""
PORT = 3128
_NO_KEY = "no-key-is-needed-here"
_FORWARD = (
    "/bin/sh",
    "-c",
    # Where an image has no Python there is no forwarder, and the socket is still there.
    f'command -v python3 >/dev/null && exec python3 -I -S {FOLDER}/forward.py {PORT} "$@"; exec "$@"',
    "sandbox",
)
_PROGRAMS = ("forward.py", "dialogue.py")


def has_way_out(spec: Spec) -> bool:
    """Tell whether the folder is there at all."""
    return spec.network != "none"


def command(spec: Spec) -> list[str]:
    """Return the command, behind the forwarder where the spec has capabilities."""
    if not has_way_out(spec) or is_relayed(spec):
        return [*spec.command]
    return [*_FORWARD, *spec.command]


def environment(spec: Spec) -> Mapping[str, str]:
    """Return what a program finds its way by."""
    if not has_way_out(spec):
        return {}
    if is_relayed(spec):
        return {"FUMEHOOD_RELAY_SOCKET": f"{FOLDER}/relay"}
    told = {"FUMEHOOD_EGRESS_SOCKET": f"{FOLDER}/socket"}
    for one in capabilities.granted(spec.network):
        told[one.variable] = f"http://127.0.0.1:{PORT}/{one.name}"
    if capabilities.asks_model(spec.network):
        # What libraries look for. They want a key too; the real one is added outside.
        place = f"http://127.0.0.1:{PORT}/{LLM}"
        told |= {"ANTHROPIC_BASE_URL": place, "OPENAI_BASE_URL": f"{place}/v1"}
        told |= dict.fromkeys(("ANTHROPIC_API_KEY", "OPENAI_API_KEY"), _NO_KEY)
    return told


def fill(folder: Path) -> None:
    """Put the two small programs there."""
    for name in _PROGRAMS:
        place = folder / name
        place.write_bytes(Path(__file__).with_name(name).read_bytes())
        place.chmod(0o644)
