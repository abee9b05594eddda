"""The connection to an S3 service: every write is put-once, every request is bounded, every failure one sentence."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from minio import Minio
from minio.error import InvalidResponseError, MinioException, S3Error, ServerError
from pydantic import SecretStr
from urllib3 import BaseHTTPResponse, PoolManager, Retry, Timeout
from urllib3.exceptions import HTTPError

from fumehood.errors import ArtifactsUnavailableError, BadInputError

CONNECT_S, READ_S = 5.0, 30.0
TRIES = 3
"""How often a request that met no answer, or an answer of 5xx, is sent again."""
PAUSE_S, JITTER_S, LONGEST_PAUSE_S = 0.2, 0.3, 5.0
PASSING = (429, 500, 502, 503, 504)
REFUSED = frozenset({"AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "RequestTimeTooSkewed"})


@dataclass(frozen=True, slots=True, kw_only=True)
class S3Place:
    """Where an S3 service is, and who we are to it."""

    endpoint: str
    bucket: str
    access_key: str
    secret_key: SecretStr
    region: str = "us-east-1"
    secure: bool = True
    prefix: str = "artifacts"


class PutOncePool(PoolManager):
    """Asks the service with each write to refuse where something stands under the key; some services do not know that.

    A part of a large object is no write yet: what makes the object is the request that completes it.
    """

    def urlopen(  # type: ignore[override]
        self, method: str, url: str, redirect: bool = True, **rest: Any
    ) -> BaseHTTPResponse:
        """Send a request, with the condition where it makes an object."""
        parts = urlsplit(url)
        makes = "uploadId=" in parts.query if method == "POST" else method == "PUT" and not parts.query
        # A bucket has one word in its path; an object has the prefix and its name at least.
        if makes and "/" in parts.path.strip("/"):
            # It is not signed, as S3 asks for the host and its own headers only.
            rest["headers"] = {**rest.get("headers", {}), "If-None-Match": "*"}
        return super().urlopen(method, url, redirect=redirect, **rest)


def connect(place: S3Place) -> Minio:
    """Return a client; nothing is asked yet."""
    check_words(place)
    try:
        return Minio(
            place.endpoint,
            access_key=place.access_key,
            secret_key=place.secret_key.get_secret_value(),
            region=place.region,
            secure=place.secure,
            http_client=PutOncePool(
                timeout=Timeout(connect=CONNECT_S, read=READ_S),
                retries=Retry(
                    total=TRIES,
                    allowed_methods=None,
                    status_forcelist=PASSING,
                    backoff_factor=PAUSE_S,
                    backoff_jitter=JITTER_S,
                    backoff_max=LONGEST_PAUSE_S,
                    raise_on_status=False,
                    redirect=0,
                ),
                maxsize=10,
                ssl_context=ssl.create_default_context(),
            ),
        )
    except ValueError:
        raise BadInputError(
            f"FUMEHOOD_S3_ENDPOINT is {place.endpoint!r}; it must be a host or host:port, without http:// and a path."
        ) from None


def check_words(place: S3Place) -> None:
    """Refuse settings that cannot be meant."""
    if not place.access_key or not place.secret_key.get_secret_value():
        raise BadInputError("FUMEHOOD_S3_ENDPOINT is set, so FUMEHOOD_S3_ACCESS_KEY and _S3_SECRET_KEY must be too.")
    if not place.prefix or place.prefix.strip("/") != place.prefix or "//" in place.prefix:
        raise BadInputError(
            "FUMEHOOD_S3_PREFIX must be a name such as artifacts or team/artifacts, without / at its ends."
        )


@contextmanager
def told(place: S3Place) -> Iterator[None]:
    """Turn whatever the service or the way to it does into one sentence without any key in it."""
    try:
        yield
    except S3Error as error:
        raise _sentence(place, error.code or "") from error
    except ServerError as error:
        raise _away(place, f"answers with HTTP {error.status_code}") from error
    except (InvalidResponseError, MinioException) as error:
        raise _away(place, "does not answer as S3") from error
    except ValueError as error:
        # The client checks the words it is given before it asks.
        raise BadInputError(f"The S3 settings cannot be used: {error}.") from error
    except (HTTPError, OSError) as error:
        raise _away(place, f"does not answer ({_cause(error)})") from error


def _sentence(place: S3Place, code: str) -> ArtifactsUnavailableError:
    if code in REFUSED:
        return ArtifactsUnavailableError(
            f"The artifact store at {place.endpoint} refuses us ({code}) in the bucket {place.bucket}.",
            remedy="Look at FUMEHOOD_S3_ACCESS_KEY, FUMEHOOD_S3_SECRET_KEY, what that key may do, and the clock.",
        )
    if code == "NoSuchBucket":
        return ArtifactsUnavailableError(
            f"The artifact store at {place.endpoint} has no bucket {place.bucket}.",
            remedy="Make it, or set FUMEHOOD_S3_CREATE_BUCKET=true.",
        )
    return _away(place, f"answers {code or 'with an error'}")


def _away(place: S3Place, what: str) -> ArtifactsUnavailableError:
    return ArtifactsUnavailableError(
        f"The artifact store at {place.endpoint} {what}.",
        remedy="See that the service runs and FUMEHOOD_S3_ENDPOINT and FUMEHOOD_S3_SECURE are right; nothing is lost.",
    )


def _cause(error: BaseException) -> str:
    reason = getattr(error, "reason", None)
    return type(reason if isinstance(reason, BaseException) else error).__name__
