"""A sentence of a paper tied to records."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """One number in a paper and where it comes from."""

    id: str
    """`c1`, `c2` ... in the order of the text."""
    section: str
    text: str
    """The number exactly as it is printed, such as `0.413`."""
    source: str
    """File below the experiment's folder, such as `run_1/record.json`."""
    pointer: str
    """What in it, such as `kl_divergence/mean` or `kl_divergence/circle/stderr`."""
    value: float
    """The number before it was rounded."""
    digits: int
    """Significant digits printed."""
    sentence: str
    """The sentence it stands in, as plain text."""
