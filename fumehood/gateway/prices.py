"""What a call costs, at worst before it and in truth after it."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources

from fumehood.domain.ledger import ModelUsage
from fumehood.errors import BadInputError

_MILLION = 1_000_000
_DATED = re.compile(r"-\d{8}$")


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
class ModelFacts:
    """One model: its rates, and what it refuses in a request."""

    rates: Rates
    long_rates: Rates | None = None
    long_above: int = 0
    sampling: bool = True
    """Whether it takes temperature, top_p and top_k."""
    forced_tools: bool = True
    """Whether a caller may force it to use a tool."""
    headroom: int = 0
    """Tokens added to `max_tokens` for its thinking."""

    def at_worst(self, input_tokens: int, max_tokens: int, *, cached: bool) -> float:
        """Return the most a call can cost whose prompt has at most `input_tokens`."""
        rates = self._rates(input_tokens)
        per_input = rates.dearest_input if cached else rates.input
        return (input_tokens * per_input + max_tokens * rates.output) / _MILLION

    def cost(self, tokens: Tokens) -> float:
        """Return what these tokens cost."""
        rates = self._rates(tokens.prompt)
        return (
            tokens.input * rates.input
            + tokens.output * rates.output
            + tokens.cache_read * rates.cache_read
            + (tokens.cache_write - tokens.cache_write_1h) * rates.cache_write
            + tokens.cache_write_1h * rates.cache_write_1h
        ) / _MILLION

    def _rates(self, prompt_tokens: int) -> Rates:
        return self.long_rates if self.long_rates and prompt_tokens > self.long_above else self.rates


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


class Prices:
    """The table of models."""

    def __init__(self, models: Mapping[str, ModelFacts], *, allow_unknown: bool = False) -> None:
        self._models = models
        self._allow_unknown = allow_unknown

    @classmethod
    def shipped(cls, *, allow_unknown: bool = False) -> Prices:
        """Return the table that comes with the platform."""
        text = resources.files("fumehood.gateway").joinpath("prices.toml").read_text(encoding="utf-8")
        return cls.parse(text, allow_unknown=allow_unknown)

    @classmethod
    def parse(cls, text: str, *, allow_unknown: bool = False) -> Prices:
        """Read a table from TOML."""
        models = {}
        for name, table in tomllib.loads(text)["models"].items():
            long = dict(table.pop("long", {}))
            above = int(long.pop("above", 0))
            facts = {key: table.pop(key) for key in ("sampling", "forced_tools", "headroom") if key in table}
            models[name] = ModelFacts(
                rates=Rates(**table), long_rates=Rates(**long) if long else None, long_above=above, **facts
            )
        return cls(models, allow_unknown=allow_unknown)

    def known(self) -> dict[str, ModelFacts]:
        """Return every model whose price is known, by name."""
        return dict(sorted(self._models.items()))

    def of(self, model: str) -> ModelFacts:
        """Return what is known of a model; `BadInputError` when its price is unknown and that is not allowed."""
        facts = self._models.get(model) or self._models.get(_DATED.sub("", model))
        if facts is None and not self._allow_unknown:
            raise BadInputError(f"The price of the model {model!r} is not known, so its cost could not be capped.")
        return facts or ModelFacts(rates=Rates())
