"""Two executions that talk: an evaluator asks, a query answers, and the platform carries every message."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fumehood.domain.execution import NAME, Spec
from fumehood.errors import BadInputError, NotFoundError

if TYPE_CHECKING:
    from fumehood.ports import Sandbox

_KIND = "relay"
_ASKS, _ANSWERS = "asks", "answers"
_SIDE = re.compile(r"relay:(?P<role>[a-z]+):(?P<peer>[^:]+)(?P<numbers>(?::[0-9.]+)*)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Caps:
    """How much may be said in one dialogue; past any of them it ends."""

    message_bytes: int = 1024 * 1024
    messages: int = 100_000
    """Questions, each with its answer."""
    total_bytes: int = 1024 * 1024 * 1024
    """Of all messages together."""
    answer_s: float = 60.0
    """For one answer."""
    per_second: int = 2000
    """Questions a second; faster ones wait."""

    def __post_init__(self) -> None:
        """Refuse what could not be meant."""
        for name, low, high in _RANGES:
            if not low <= getattr(self, name) <= high:
                raise BadInputError(f"The cap {name} of a dialogue is from {low:g} to {high:g}.")


_RANGES = (
    ("message_bytes", 1, 16 << 20),
    ("messages", 1, 100_000_000),
    ("total_bytes", 1, 1 << 40),
    ("answer_s", 0.05, 86400.0),
    ("per_second", 1, 100_000),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One of the two, as its spec's `network` says it."""

    peer: str
    caps: Caps | None
    """Set for the one that asks: it is launched last, and the relay with it."""


def is_relayed(spec: Spec) -> bool:
    """Tell whether the execution is one of a pair."""
    return spec.network.startswith(f"{_KIND}:")


def side(spec: Spec) -> Side:
    """Return which side of a pair an execution is."""
    found = _SIDE.fullmatch(spec.network)
    if found and NAME.fullmatch(found["peer"]):
        role, peer, numbers = found["role"], found["peer"], found["numbers"].split(":")[1:]
        if role == _ANSWERS and not numbers:
            return Side(peer=peer, caps=None)
        if role == _ASKS and (caps := _caps(numbers)):
            return Side(peer=peer, caps=caps)
    raise BadInputError(f"This is no side of a pair: {spec.network!r}.")


def _caps(numbers: list[str]) -> Caps | None:
    try:
        size, count, total, answer_s, per_second = numbers
        return Caps(
            message_bytes=int(size),
            messages=int(count),
            total_bytes=int(total),
            answer_s=float(answer_s),
            per_second=int(per_second),
        )
    except ValueError:
        return None


def sides(asking: Spec, answering: Spec, caps: Caps) -> tuple[Spec, Spec]:
    """Return both specs as they are launched."""
    if asking.fence != answering.fence:
        raise BadInputError("The two executions of a pair have one fence.")
    if asking.network != "none" or answering.network != "none":
        raise BadInputError("An execution of a pair has no capability.")
    if asking.name == answering.name:
        raise BadInputError("A pair is two executions.")
    told = ":".join(str(value) for value in dataclasses.astuple(caps))
    return (
        dataclasses.replace(asking, network=f"{_KIND}:{_ASKS}:{answering.name}:{told}"),
        dataclasses.replace(answering, network=f"{_KIND}:{_ANSWERS}:{asking.name}"),
    )


def launch_pair(sandbox: Sandbox, asking: Spec, answering: Spec, caps: Caps | None = None) -> None:
    """Launch both and the relay between them, or neither; the same call again adopts them.

    Each finds `/egress/relay` and `/egress/dialogue.py`, which speaks to it. The two are inspected, collected and
    removed like any others; when one ends, the other one's next message says so.
    """
    first, second = sides(asking, answering, caps or Caps())
    is_new = not _is_known(sandbox, second.name)
    sandbox.launch(second)
    try:
        sandbox.launch(first)
    except BaseException:
        if is_new:
            sandbox.remove(second.name)
        raise


def _is_known(sandbox: Sandbox, name: str) -> bool:
    try:
        sandbox.inspect(name)
    except NotFoundError:
        return False
    return True
