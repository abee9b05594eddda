"""What an administrator lets capabilities do; neither a spec nor a program can change any of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from fumehood.errors import BadInputError, SandboxUnavailableError
from sandbox.egress import addresses, capabilities, granting
from sandbox.egress.capabilities import Capability
from sandbox.egress.granting import ModelGateway
from sandbox.egress.upstream import Base

if TYPE_CHECKING:
    from fumehood.settings import Settings

MODES = ("live", "record", "replay", "off")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """The mode, where upstreams stand, and how much one execution may ask."""

    mode: str = "live"
    upstreams: Mapping[str, str] = field(default_factory=dict)
    """Mirrors, by capability: https, at a public address."""
    doubles: Mapping[str, str] = field(default_factory=dict)
    """Stand-ins of tests, by capability: http, at a loopback address. They get the key of the capability too."""
    models: ModelGateway | None = None
    requests: int = 100
    interval_s: float | None = None
    """Between two requests to one upstream; the capability's own when None."""

    def __post_init__(self) -> None:
        """Refuse what could not be meant."""
        if self.mode not in MODES:
            raise BadInputError(f"FUMEHOOD_EGRESS is one of {', '.join(MODES)}, not {self.mode!r}.")
        if not 1 <= self.requests <= 10_000:
            raise BadInputError(f"FUMEHOOD_EGRESS_REQUESTS is a number from 1 to 10000, not {self.requests!r}.")
        for name in (*self.upstreams, *self.doubles):
            if name not in capabilities.ALL:
                known = ", ".join(capabilities.ALL)
                raise BadInputError(f"An upstream is set for {name!r}, but the capabilities are {known}.")
        for one in capabilities.ALL.values():
            self.base(one)

    def granted(self, network: str) -> tuple[Capability, ...]:
        """Return the services that a spec's `network` asks for, or raise when it is not to be had."""
        found = capabilities.granted(network)
        if (found or capabilities.asks_model(network)) and self.mode == "off":
            raise SandboxUnavailableError(
                "Network capabilities are switched off here.",
                remedy="Set FUMEHOOD_EGRESS to live, record or replay.",
                reason="capability_unsupported",
            )
        return found

    def base(self, capability: Capability) -> Base:
        """Return where a capability's upstream stands."""
        double = self.doubles.get(capability.name, "")
        return _base(double or self.upstreams.get(capability.name, capability.upstream), is_double=bool(double))


def of(settings: Settings) -> Rules:
    """Return the rules that the settings say."""
    return Rules(
        mode=settings.egress,
        upstreams=settings.egress_upstreams,
        doubles=settings.egress_doubles,
        models=granting.of(settings),
        requests=settings.egress_requests,
    )


def _base(text: str, *, is_double: bool) -> Base:
    try:
        told = urlsplit(text)
        port = told.port
    except ValueError:
        told, port = urlsplit(""), None
    is_bare = told.path in {"", "/"} and not (told.query or told.fragment or "@" in told.netloc)
    host = told.hostname or ""
    if is_double:
        if told.scheme == "http" and is_bare and port and addresses.is_loopback(host):
            return Base(scheme="http", host=host, port=port, is_double=True)
        raise BadInputError(f"A double of an upstream is http://ADDRESS:PORT at a loopback address, not {text!r}.")
    if told.scheme == "https" and is_bare and host:
        return Base(scheme="https", host=host, port=port or 443)
    raise BadInputError(f"An upstream is https://HOST without a path, not {text!r}.")
