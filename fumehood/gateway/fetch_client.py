"""The `Fetcher` port over the gateway."""

from __future__ import annotations

import dataclasses

import httpx

from fumehood.domain.ledger import Claims
from fumehood.domain.token import mint
from fumehood.ports import Clock, Delivered, Delivery

TIMEOUT_S = 60.0
TOKEN_LIFE_S = 600.0
PATH = "/v1/catalogue/"
OK = 200


class GatewayFetcher:
    """Asks the gateway for a file, each time with a token that ends soon."""

    def __init__(self, url: str, secret: bytes, clock: Clock, *, timeout_s: float = TIMEOUT_S) -> None:
        self._url = url.rstrip("/")
        self._secret = secret
        self._clock = clock
        self._timeout_s = timeout_s

    def fetch(self, claims: Claims, name: str) -> Delivery:
        """Return what the gateway says; where it does not answer, that the file is away."""
        token = mint(dataclasses.replace(claims, expires_at=self._clock.now() + TOKEN_LIFE_S), self._secret)
        try:
            # The gateway is on this machine or next to it: a proxy set for the outside must not see its tokens.
            with httpx.Client(timeout=self._timeout_s, trust_env=False) as client:
                answer = client.post(f"{self._url}{PATH}{name}", headers={"authorization": f"Bearer {token}"})
            told = answer.json()
            if answer.status_code == OK:
                return Delivery(state=Delivered(told["state"]), reason=str(told["reason"]), sha256=str(told["sha256"]))
            return Delivery(state=Delivered.AWAY, reason=str(told["error"]["message"]))
        except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
            return Delivery(state=Delivered.AWAY, reason=f"The gateway could not be asked: {error}.")
