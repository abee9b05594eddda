"""What tokens cost, and which of them are paid differently."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fumehood.domain.ledger import ModelUsage


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """USD per million tokens."""

    input: float = 0.0
    output: float = 0.0
    cache_read: float = 0.0
    cache_write: float = 0.0
    cache_write_1h: float = 0.0

    @property
    def dearest_input(self) -> float:
        """The most that one token of the prompt can cost."""
        return max(self.input, self.cache_read, self.cache_write, self.cache_write_1h)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokens:
    """A reply's `usage`, by what is paid differently."""

    input: int = 0
    output: int = 0
    cache_read: int = 0
    cache_write: int = 0
    """All writes; those kept for an hour are counted again in `cache_write_1h`."""
    cache_write_1h: int = 0

    @property
    def prompt(self) -> int:
        """All tokens of the prompt."""
        return self.input + self.cache_read + self.cache_write

    @classmethod
    def of(cls, usage: Mapping[str, object]) -> Tokens:
        """Read them from the `usage` of a reply; what is missing or odd counts as none."""
        creation = usage.get("cache_creation")
        hour = creation.get("ephemeral_1h_input_tokens") if isinstance(creation, Mapping) else 0
        write = _count(usage.get("cache_creation_input_tokens"))
        return cls(
            input=_count(usage.get("input_tokens")),
            output=_count(usage.get("output_tokens")),
            cache_read=_count(usage.get("cache_read_input_tokens")),
            cache_write=write,
            cache_write_1h=min(_count(hour), write),
        )

    def usage(self, usd: float) -> ModelUsage:
        """Return them as the ledger keeps them."""
        return ModelUsage(
            input_tokens=self.input + self.cache_write,
            cached_tokens=self.cache_read,
            output_tokens=self.output,
            usd=usd,
        )


def _count(value: object) -> int:
    return value if isinstance(value, int) and value > 0 else 0
