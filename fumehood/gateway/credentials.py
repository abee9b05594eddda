"""What the keys of the clouds look like: several things in one line, taken apart here and nowhere else."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from fumehood.errors import BadInputError

_ACCESS_KEY_ID = re.compile(r"[A-Z0-9]{16,128}")
_SERVICE_ACCOUNT = ("client_email", "private_key", "token_uri")


@dataclass(frozen=True, slots=True, kw_only=True)
class Aws:
    """A Bedrock API key, or what requests are signed with."""

    bearer: str = field(default="", repr=False)
    access_key: str = field(default="", repr=False)
    secret_key: str = field(default="", repr=False)
    session_token: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Google:
    """An access token, or the service account that one is asked for with."""

    token: str = field(default="", repr=False)
    account: dict[str, str] = field(default_factory=dict, repr=False)


def aws(key: str) -> Aws:
    """Read a key of Bedrock; `BadInputError` says what is wrong with it."""
    wanted = "a Bedrock API key or ACCESS_KEY_ID:SECRET_ACCESS_KEY[:SESSION_TOKEN]"
    if key.startswith("{"):
        raise BadInputError(f"A key of Bedrock is {wanted}, not JSON.")
    parts = key.split(":")
    if len(parts) == 1:
        if re.fullmatch(r"A(?:KIA|SIA)[A-Z0-9]{16}", key):
            raise BadInputError(f"That is an access key's id without its secret: give {wanted}.")
        return Aws(bearer=key)
    if len(parts) > 3 or not all(parts):
        raise BadInputError(f"A key of Bedrock is {wanted}; of that there are {len(parts)} parts, or one is empty.")
    if not _ACCESS_KEY_ID.fullmatch(parts[0]):
        raise BadInputError(f"A key of Bedrock is {wanted}; what stands first is no access key's id.")
    return Aws(access_key=parts[0], secret_key=parts[1], session_token="".join(parts[2:]))


def google(key: str) -> Google:
    """Read a key of Vertex AI; `BadInputError` says what is wrong with it."""
    if not key.startswith("{"):
        if key.startswith("/"):
            raise BadInputError("That is the path of a file: give what is in it, a service account's JSON.")
        if key.startswith("AIza"):
            raise BadInputError("Vertex AI takes no API key here: give a service account's JSON or an access token.")
        return Google(token=key)
    try:
        told = json.loads(key)
    except ValueError:
        # Without `from`: the parser's message would quote the key.
        raise BadInputError("The key of Vertex AI begins as JSON does, and is none.") from None
    if not isinstance(told, dict) or told.get("type") != "service_account":
        raise BadInputError('The JSON of a key of Vertex AI must be a service account\'s ("type": "service_account").')
    for name in _SERVICE_ACCOUNT:
        if not isinstance(told.get(name), str) or not told[name]:
            raise BadInputError(f"The service account's JSON lacks its `{name}`.")
    if not told["private_key"].startswith("-----BEGIN "):
        raise BadInputError("The service account's `private_key` is not PEM.")
    if not told["token_uri"].startswith(("https://", "http://127.0.0.1:", "http://localhost:")):
        raise BadInputError("The service account's `token_uri` must be https.")
    return Google(account={str(name): str(value) for name, value in told.items()})


def check(kind: str, key: str) -> None:
    """Refuse a key that an upstream of this kind cannot use; what other kinds take has no form to check."""
    if kind == "bedrock":
        aws(key)
    elif kind == "vertex":
        google(key)


def hidden(text: str, secrets: Iterable[str]) -> str:
    """Return a text without these secrets, also where it quotes them as JSON does."""
    for secret in secrets:
        for form in (secret, json.dumps(secret)[1:-1]) if secret else ():
            text = text.replace(form, "[secret]")
    return text
