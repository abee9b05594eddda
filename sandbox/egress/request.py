"""What a program may ask for: one line of HTTP read strictly, and nothing guessed."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import parse_qsl, quote, urlencode

from sandbox.egress.capabilities import Capability

MAX_TARGET, MAX_QUERY = 1024, 512
"""Characters of a whole target, and of its query; what leaves with a request is bounded by these."""
_PLAIN = re.compile(r"[A-Za-z0-9._~:;,()@!$&'*+=/-]+")
_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_HOST = re.compile(rb"(?:127\.0\.0\.1|localhost|egress)(?::[0-9]{1,5})?", re.IGNORECASE)
_BODY = {b"transfer-encoding", b"content-length", b"trailer", b"expect"}
_SWITCH = {b"upgrade", b"http2-settings", b"proxy-connection", b"proxy-authorization"}


class RefusedError(Exception):
    """Why a request gets no answer from outside: the status and one sentence for the program."""

    def __init__(self, status: int, sentence: str, *, retry_after_s: float = 0.0) -> None:
        super().__init__(sentence)
        self.status = status
        self.sentence = sentence
        self.retry_after_s = retry_after_s
        self.went_up = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """One request that may go up."""

    capability: Capability
    path: str
    query: tuple[tuple[str, str], ...]
    """Names and decoded values, sorted."""

    @property
    def key(self) -> str:
        """Return what two requests for the same thing have in common."""
        text = "\0".join([self.capability.name, self.path, *(part for pair in self.query for part in pair)])
        return hashlib.sha256(text.encode()).hexdigest()

    def target(self, more: Mapping[str, str] | None = None) -> str:
        """Return path and query as they are sent, written anew from what was understood."""
        pairs = [*self.query, *(more or {}).items()]
        return f"{self.path}?{urlencode(pairs, quote_via=quote, safe=':,|')}" if pairs else self.path


def read(
    method: bytes, target: bytes, headers: list[tuple[bytes, bytes]], version: bytes, allowed: Mapping[str, Capability]
) -> Wanted:
    """Return what a request asks for, or raise RefusedError."""
    if version not in {b"1.0", b"1.1"}:
        raise RefusedError(505, "Only HTTP/1.1 is spoken here.")
    if method != b"GET":
        raise RefusedError(405, "Only GET is answered here.")
    if len(target) > MAX_TARGET:
        raise RefusedError(414, f"The address is longer than {MAX_TARGET} characters.")
    check_headers(headers)
    if not target.startswith(b"/"):
        raise RefusedError(403, "The address must begin with /NAME of a capability; other hosts are not reached.")
    try:
        path, mark, query = target.decode("ascii").partition("?")
    except UnicodeDecodeError:
        raise RefusedError(400, "The address must be ASCII.") from None
    _, name, *rest = path.split("/", 2)
    if name not in allowed:
        granted = ", ".join(sorted(allowed)) or "none"
        raise RefusedError(403, f"The first part of the path must be a granted capability ({granted}).")
    return within(allowed[name], "/" + "".join(rest), query if mark else "")


def within(capability: Capability, path: str, query: str) -> Wanted:
    """Return a request to one capability, or raise RefusedError; redirects are held to the same."""
    if len(query) > MAX_QUERY:
        raise RefusedError(414, f"The query is longer than {MAX_QUERY} characters.")
    if "%" in path:
        raise RefusedError(403, "The path must be written without percent-encoding.")
    if not _PLAIN.fullmatch(path) or any(part in {"", ".", ".."} for part in path.split("/")[1:]):
        raise RefusedError(403, "The path has empty parts, dots or characters that no path here has.")
    if not capability.allows(path):
        raise RefusedError(403, f"The path is not among those of the capability {capability.name}.")
    return Wanted(capability=capability, path=path, query=_query(capability, query))


def check_headers(headers: list[tuple[bytes, bytes]], *, has_body: bool = False) -> None:
    """Refuse what would switch to something else, or name another host; and a body, where there may be none."""
    names = {name for name, _ in headers}
    if not has_body and (found := names & _BODY):
        raise RefusedError(413, f"A request here has no body, so no header {min(found).decode()}.")
    if found := names & _SWITCH:
        raise RefusedError(403, f"The header {min(found).decode()} is not answered here.")
    for name, value in headers:
        if name == b"host" and not _HOST.fullmatch(value):
            raise RefusedError(403, "The host is not this one; other hosts are not reached.")


def _query(capability: Capability, query: str) -> tuple[tuple[str, str], ...]:
    if not query:
        return ()
    if _ESCAPE.search(query) or "#" in query:
        raise RefusedError(400, "The query is not well encoded.")
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=True, errors="strict", max_num_fields=20)
    except ValueError:
        raise RefusedError(400, "The query is not well encoded.") from None
    if len({name for name, _ in pairs}) != len(pairs):
        raise RefusedError(403, "A name stands twice in the query.")
    for name, value in pairs:
        most = capability.queries.get(name)
        if most is None:
            raise RefusedError(403, f"The query of {capability.name} may not hold {name[:40]!r}.")
        if len(value) > most or not value.isprintable():
            raise RefusedError(403, f"The value of {name} is longer than {most} characters, or has odd ones.")
    return tuple(sorted(pairs))
