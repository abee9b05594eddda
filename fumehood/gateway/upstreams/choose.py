"""Who answers: an adapter for each upstream of the models' table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from fumehood.errors import BadInputError
from fumehood.gateway.keys import VARIABLES
from fumehood.gateway.line import Line
from fumehood.gateway.models import Models, Source
from fumehood.gateway.upstream import Upstream
from fumehood.gateway.upstreams.anthropic import AnthropicUpstream
from fumehood.gateway.upstreams.bedrock import BedrockUpstream
from fumehood.gateway.upstreams.faults import Faulty
from fumehood.gateway.upstreams.http import Names
from fumehood.gateway.upstreams.offline import OfflineModel
from fumehood.gateway.upstreams.openai import OpenAiUpstream
from fumehood.gateway.upstreams.vertex import VertexUpstream
from fumehood.ports import Artifacts

Key = Callable[[str], str | None]
"""Returns the key of a name, or None where there is none."""

_PROVIDERS = {"anthropic": "Anthropic", "openai": "OpenAI", "deepseek": "DeepSeek", "openrouter": "OpenRouter"}
"""How upstreams are called in sentences; others by their own name."""


def upstreams(models: Models, artifacts: Artifacts, key: Key, faults: Sequence[str] = ()) -> Mapping[str, Upstream]:
    """Return the adapters by the names of their upstreams; none of them connects before it is asked.

    With `faults` the offline model has them on purpose.
    """
    return {name: _upstream(source, artifacts, key, faults) for name, source in models.sources.items()}


def _upstream(source: Source, artifacts: Artifacts, key: Key, faults: Sequence[str]) -> Upstream:
    line = Line(source.name, most_at_once=source.most_at_once)
    provider = _PROVIDERS.get(source.name, source.name)
    if source.kind == "offline":
        offline = OfflineModel(artifacts)
        return Faulty(offline, faults, line) if faults else offline
    if source.kind == "anthropic":
        names = Names(provider=provider, key=source.key, variable=VARIABLES.get(source.key, ""))
        return AnthropicUpstream(source.base_url, key=lambda: key(source.key), line=line, names=names)
    if source.kind == "openai":
        names = Names(provider=provider, key=source.key, variable=VARIABLES.get(source.key, ""))
        return OpenAiUpstream(
            source.base_url, key=lambda: key(source.key), names=names, line=line, limit_field=source.limit_field
        )
    if source.kind == "bedrock":
        names = Names(provider="Amazon Bedrock", key=source.key, variable=VARIABLES.get(source.key, ""))
        return BedrockUpstream(source, names=names, key=lambda: key(source.key), line=line)
    if source.kind == "vertex":
        names = Names(provider="Google Vertex AI", key=source.key, variable=VARIABLES.get(source.key, ""))
        return VertexUpstream(source, names=names, key=lambda: key(source.key), line=line)
    raise BadInputError(f"upstreams.{source.name}: there is no kind {source.kind!r}.")
