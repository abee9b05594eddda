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


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokens:
    """A reply's `usage`, by what is paid differently."""

    input: int = 0
    output: int = 0
    cache_read: int = 0
    cache_write: int = 0
    """All writes; those kept for an hour are counted again in `cache_write_1h`."""
    cache_write_1h: int = 0

    @classmethod
    def dearest(cls, prompt: int, output: int, rates: Rates, *, cached: bool) -> Tokens:
        """Return so many tokens as they cost the most; only where a caller asks for it is anything kept."""
        ways = {"input": rates.input}
        if cached:
            ways |= {"cache_write": rates.cache_write, "cache_write_1h": rates.cache_write_1h}
            ways["cache_read"] = rates.cache_read
        way = max(ways, key=lambda name: ways[name])
        if way == "cache_write_1h":
            return cls(cache_write=prompt, cache_write_1h=prompt, output=output)
        return cls(**{way: prompt, "output": output})

    @property
    def prompt(self) -> int:
        """All tokens of the prompt."""
        return self.input + self.cache_read + self.cache_write

    @classmethod
    def of(cls, usage: Mapping[str, object]) -> Tokens:
        """Read them from the `usage` of a reply; what is missing or odd counts as none, and `is_told` says so."""
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


def is_told(usage: Mapping[str, object], name: str) -> bool:
    """Whether a usage says this number of tokens."""
    value = usage.get(name)
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _count(value: object) -> int:
    return value if isinstance(value, int) and value > 0 else 0
