"""Authentication: the API key of a request (`Authorization: Bearer` or `X-API-Key`), its role, and its rate."""

import math
from collections.abc import Callable
from typing import Final

from fastapi import Request

from experiments.api_keys import ApiKey, KeyRing
from experiments.rest.limits import RateLimiter
from experiments.rest.problems import Problem
from experiments.roles import Role

_CHALLENGE: Final = {"WWW-Authenticate": 'Bearer realm="sagelift"'}


class Auth:
    """Checks the key of a request, its right and its rate, in memory only.

    Args:
        ring: The valid keys.
        limiter: Limits the rate of each key.
    """

    def __init__(self, ring: KeyRing, limiter: RateLimiter) -> None:
        self._ring, self._limiter = ring, limiter

    def check(self, request: Request, right: Role) -> ApiKey:
        """Return the key of a request.

        Args:
            request: The request.
            right: The right that the request needs.

        Raises:
            Problem: 401 without a valid key, 403 without the right, 429 above the rate.
        """
        headers = request.headers
        text = headers.get("x-api-key")
        if text is None:
            scheme, _, rest = headers.get("authorization", "").partition(" ")
            text = rest.strip() if scheme.lower() == "bearer" else ""
        key = self._ring.find(text)
        if key is None:
            raise Problem(
                401,
                "No key",
                rule="a request needs a valid API key",
                remedy="send `Authorization: Bearer KEY` (`sagelift experiment key create` creates one)",
                headers=_CHALLENGE,
            )
        if not key.may(right):
            raise Problem(
                403,
                "Not allowed",
                value=key.role,
                rule=f"this needs the right {right!r}",
                remedy="use a key with another role",
            )
        if (wait := self._limiter.wait(key.id)) > 0:
            raise Problem(
                429,
                "Too many requests",
                rule="a key has a maximum rate",
                remedy=f"wait {wait:.2f} s",
                headers={"Retry-After": str(math.ceil(wait))},
            )
        return key

    def needs(self, right: Role) -> Callable[[Request], ApiKey]:
        """Return `check` as a FastAPI dependency of an endpoint.

        Args:
            right: The right that the endpoint needs.
        """

        def check(request: Request) -> ApiKey:
            return self.check(request, right)

        return check
