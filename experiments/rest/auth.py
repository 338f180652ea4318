"""Who asks: an API key in `Authorization: Bearer` or `X-API-Key`, its role, and its rate."""

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
    """Checks a request's key against the ring, its right and its rate. Touches no database."""

    def __init__(self, ring: KeyRing, limiter: RateLimiter) -> None:
        self._ring, self._limiter = ring, limiter

    def check(self, request: Request, right: Role) -> ApiKey:
        """The key that asks. Raises Problem: 401 without a good key, 403 without the right, 429 too often."""
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
                rule="a request carries an API key that is in use",
                remedy="send `Authorization: Bearer KEY` (`sagelift experiment key create` makes one)",
                headers=_CHALLENGE,
            )
        if not key.may(right):
            raise Problem(
                403,
                "Not allowed",
                value=key.role,
                rule=f"this needs the right {right!r}",
                remedy="use a key of another role",
            )
        if (wait := self._limiter.wait(key.id)) > 0:
            raise Problem(
                429,
                "Too many requests",
                rule="a key has a rate",
                remedy=f"wait {wait:.2f} s",
                headers={"Retry-After": str(math.ceil(wait))},
            )
        return key

    def needs(self, right: Role) -> Callable[[Request], ApiKey]:
        """`check` as a dependency of an endpoint."""

        def check(request: Request) -> ApiKey:
            return self.check(request, right)

        return check
