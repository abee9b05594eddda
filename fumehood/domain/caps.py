"""What a call of a model may cost at most: a cap at every level, from the call itself to the direction."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from fumehood.errors import OverBudgetError

SLACK_USD: Final = 1e-9
"""Slack for sums of floating-point dollars; far below what one token costs."""


class Cap(StrEnum):
    """Whose cap refuses, from the nearest to the widest."""

    CALL = "call"
    TOKEN = "token"  # noqa: S105 - a level, no secret
    EXPERIMENT = "experiment"
    DIRECTION = "direction"
    TENANT = "tenant"
    DAY = "day"
    """Of a tenant too."""


WORDS: Final[Mapping[Cap, str]] = MappingProxyType(
    {
        Cap.CALL: "The direction's budget for one call",
        Cap.TOKEN: "The token's own cap",
        Cap.EXPERIMENT: "The direction's budget for one experiment",
        Cap.DIRECTION: "The direction's budget",
    }
)
"""How a sentence names a cap in dollars."""


def check(cap: Cap, most_usd: float | None, taken_usd: float, asked_usd: float) -> None:
    """Refuse a call that would pass a cap, by what is spent or reserved under it; what costs nothing passes."""
    if most_usd is None or asked_usd <= 0 or taken_usd + asked_usd <= most_usd + SLACK_USD:
        return
    up_to = f"this call may cost up to {dollars(asked_usd)}"
    if cap is Cap.CALL:
        text = f"{WORDS[cap]} is {dollars(most_usd)}, and {up_to}: it never fits, however much is raised elsewhere."
    else:
        text = f"{WORDS[cap]} is {dollars(most_usd)}; {dollars(taken_usd)} is spent or reserved, and {up_to}."
    raise OverBudgetError(text, is_directions=cap is Cap.DIRECTION, cap=cap)


def dollars(usd: float) -> str:
    """Return an amount with its cents, and with as many digits more as it has, up to six."""
    whole, _, part = f"{usd:.6f}".partition(".")
    return f"${whole}.{part.rstrip('0'):0<2}"
