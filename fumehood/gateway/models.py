"""The table of models: who answers for each, what it costs, what it takes (`models.toml`, and the admin's own file)."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from importlib import resources
from pathlib import Path
from typing import Any

from fumehood.errors import BadInputError
from fumehood.gateway.prices import Rates, Tokens

KINDS = ("anthropic", "bedrock", "vertex", "openai", "offline")
_MILLION = 1_000_000
_DATED = re.compile(r"-\d{8}$|-\d{4}-\d{2}-\d{2}$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Who answers for models: a provider, a server of one's own, or the offline model."""

    name: str
    kind: str
    base_url: str = ""
    key: str = ""
    """The name of its key; empty where it takes none."""
    region: str = ""
    project: str = ""
    most_at_once: int = 16
    limit_field: str = "max_tokens"


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """One model: who answers for it, its rates, and what it refuses in a request."""

    upstream: str = ""
    called: str = ""
    """Its name at its upstream; empty where that is the same."""
    free: bool = False
    rates: Rates = field(default_factory=Rates)
    long_rates: Rates | None = None
    long_above: int = 0
    sampling: bool = True
    """Whether it takes temperature, top_p and top_k."""
    forced_tools: bool = True
    """Whether a caller may force it to use a tool."""
    tools: bool = True
    images: bool = True
    cache_from: int = 0
    """Tokens of the shortest beginning of a prompt that it keeps for later calls; 0 where it is not asked to."""
    headroom: int = 0
    """Tokens added to `max_tokens` for its thinking."""

    def at_worst(self, input_tokens: int, max_tokens: int, *, cached: bool) -> float:
        """Return the most a call can cost whose prompt has at most `input_tokens`."""
        return self.cost(self.worst_tokens(input_tokens, max_tokens, cached=cached))

    def worst_tokens(self, input_tokens: int, max_tokens: int, *, cached: bool) -> Tokens:
        """Return so many tokens as they cost the most."""
        return Tokens.dearest(input_tokens, max_tokens, self._rates(input_tokens), cached=cached)

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


class Models:
    """The models that may be asked, and who answers for them."""

    def __init__(
        self, sources: Mapping[str, Source], models: Mapping[str, Model], *, allow_unknown: bool = False
    ) -> None:
        self.sources = dict(sources)
        self._models = dict(models)
        self._allow_unknown = allow_unknown
        for name, model in self._models.items():
            if model.upstream not in self.sources:
                raise BadInputError(f"models.{name}: there is no upstream {model.upstream!r}.")

    @classmethod
    def shipped(cls, own: str = "", *, allow_unknown: bool = False) -> Models:
        """Return the table that comes with the platform, with what the admin's file `own` adds to it."""
        text = resources.files("fumehood.gateway").joinpath("models.toml").read_text(encoding="utf-8")
        tables = [("models.toml", text)]
        if own:
            try:
                tables.append((own, Path(own).read_text(encoding="utf-8")))
            except (OSError, ValueError) as error:
                why = getattr(error, "strerror", None) or "it is not UTF-8"
                raise BadInputError(f"The file of models {own} (FUMEHOOD_MODELS) cannot be read: {why}.") from error
        sources: dict[str, Source] = {}
        models: dict[str, Model] = {}
        for name, table in tables:
            found_sources, found_models = parse(table, name)
            sources |= found_sources
            models |= found_models
        return cls(sources, models, allow_unknown=allow_unknown)

    def known(self) -> dict[str, Model]:
        """Return every model that costs something known, by name."""
        return {name: model for name, model in sorted(self._models.items()) if not model.free}

    def all(self) -> dict[str, Model]:
        """Return every model of the table, by name."""
        return dict(sorted(self._models.items()))

    def keys(self) -> dict[str, str]:
        """Return the names of the keys that upstreams take, each with the kind of upstream that takes it."""
        return {source.key: source.kind for _, source in sorted(self.sources.items()) if source.key}

    def of(self, name: str) -> Model:
        """Return what is known of a model; `BadInputError` when its price is unknown and that is not allowed.

        Where unknown prices are allowed, `UPSTREAM/NAME` is a model of that upstream.
        """
        model = self._models.get(name) or self._models.get(_DATED.sub("", name))
        if model is not None:
            return model
        upstream, _, called = name.partition("/")
        if self._allow_unknown and called and upstream in self.sources:
            return Model(upstream=upstream, called=called)
        if self._allow_unknown and name.partition("-")[0] == "claude":
            return Model(upstream="anthropic")
        raise BadInputError(f"The price of the model {name!r} is not known, so its cost could not be capped.")

    def source_of(self, name: str) -> Source:
        """Return who answers for a model; `BadInputError` as `of`."""
        return self.sources[self.of(name).upstream]


def parse(text: str, name: str) -> tuple[dict[str, Source], dict[str, Model]]:
    """Read a table from TOML; `BadInputError` says in one sentence what is wrong with it."""
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise BadInputError(f"{name} is not TOML: {error}.") from error
    sources = {key: _source(name, key, dict(told)) for key, told in _tables(name, table, "upstreams")}
    models = {key: _model(name, key, dict(told)) for key, told in _tables(name, table, "models")}
    return sources, models


def _tables(file: str, table: Mapping[str, Any], name: str) -> list[tuple[str, Mapping[str, Any]]]:
    found = table.get(name, {})
    if not isinstance(found, Mapping) or not all(isinstance(told, Mapping) for told in found.values()):
        raise BadInputError(f"{file}: `{name}` must be tables, such as [{name}.NAME].")
    return list(found.items())


def _source(file: str, name: str, told: dict[str, Any]) -> Source:
    where = f"{file}: upstreams.{name}"
    _check(where, told, {one.name: one.type for one in fields(Source) if one.name != "name"})
    if told.get("kind") not in KINDS:
        raise BadInputError(f"{where}: `kind` must be one of {', '.join(KINDS)}.")
    if told["kind"] == "openai" and not str(told.get("base_url", "")).startswith(("https://", "http://")):
        raise BadInputError(f"{where}: `base_url` must be where it listens, such as https://api.openai.com/v1.")
    if told["kind"] in {"bedrock", "vertex"} and not told.get("region"):
        raise BadInputError(f"{where}: `region` must be where its models are, such as us-east-1.")
    if told.get("most_at_once", 1) < 1:
        raise BadInputError(f"{where}: `most_at_once` must be at least 1.")
    return Source(name=name, **told)


def _model(file: str, name: str, told: dict[str, Any]) -> Model:
    where = f"{file}: models.{name}"
    long = told.pop("long", None)
    rates = {one.name: told.pop(one.name) for one in fields(Rates) if one.name in told}
    own = {one.name: one.type for one in fields(Model) if one.name not in {"rates", "long_rates", "long_above"}}
    _check(where, told, own)
    is_free = bool(told.get("free"))
    if not is_free and not {"input", "output"} <= set(rates):
        raise BadInputError(f"{where}: `input` and `output` are needed, in US dollars per million tokens.")
    if is_free and rates:
        raise BadInputError(f"{where}: what is free has no price.")
    if long is None:
        return Model(rates=_rates(where, rates), **told)
    above = long.pop("above", 0) if isinstance(long, dict) else 0
    if not isinstance(above, int) or above < 1:
        raise BadInputError(f"{where}.long: `above` must be a number of tokens.")
    if not {"input", "output"} <= set(long):
        raise BadInputError(f"{where}.long: `input` and `output` are needed, in US dollars per million tokens.")
    return Model(rates=_rates(where, rates), long_rates=_rates(f"{where}.long", long), long_above=above, **told)


def _rates(where: str, told: Mapping[str, Any]) -> Rates:
    for name, value in told.items():
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < float("inf"):
            raise BadInputError(f"{where}: `{name}` must be a price that is not negative.")
    # What has no price of its own costs what any token of a prompt does.
    dearest = dict.fromkeys(("cache_read", "cache_write", "cache_write_1h"), told.get("input", 0.0))
    try:
        return Rates(**{name: float(value) for name, value in {**dearest, **told}.items()})
    except TypeError as error:
        known = ", ".join(one.name for one in fields(Rates))
        raise BadInputError(f"{where}: prices are {known}.") from error


def _check(where: str, told: Mapping[str, Any], known: Mapping[str, Any]) -> None:
    kinds: dict[str, type] = {"str": str, "bool": bool, "int": int}
    for name, value in told.items():
        if name not in known:
            raise BadInputError(f"{where}: there is no `{name}`; there are {', '.join(known)}.")
        if type(value) is not kinds[str(known[name])]:
            raise BadInputError(f"{where}: `{name}` must be a {known[name]}.")
