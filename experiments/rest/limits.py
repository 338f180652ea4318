"""Limits of requests: the rate of each key, and the size of a request."""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

import msgspec
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from experiments.rest.problems import Problem

_REMEMBERED: Final = 10_000


class Limits(msgspec.Struct, frozen=True):
    """The limits.

    Attributes:
        rate: Requests per second of one key, on average.
        burst: Requests of one key at once.
        body: Bytes of one request.
        batch: Assignments, exposures or users in one request.
    """

    rate: float = 1_000.0
    burst: int = 2_000
    body: int = 1_000_000
    batch: int = 1_000


def check_batch(size: int, most: int) -> None:
    """Check the number of items in a request.

    Raises:
        Problem: The request has more than `most` items.
    """
    if size > most:
        raise Problem(
            422,
            "Request refused",
            value=size,
            rule=f"a request has at most {most} items",
            remedy="send several requests",
        )


class RateLimiter:
    """A token bucket for each key. Threads may share it.

    Args:
        rate: Tokens per second.
        burst: Size of a bucket.
        monotonic: Returns seconds that never go back.
    """

    def __init__(self, rate: float, burst: int, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._rate, self._burst, self._monotonic = rate, burst, monotonic
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._lock = threading.Lock()

    def wait(self, key: str) -> float:
        """Take a token of a key. Return 0, or the seconds until its next token if it has no token left."""
        now = self._monotonic()
        with self._lock:
            tokens, since = self._buckets.pop(key, (float(self._burst), now))
            tokens = min(float(self._burst), tokens + (now - since) * self._rate)
            short = 1.0 - tokens
            self._buckets[key] = (tokens if short > 0 else tokens - 1.0, now)
            if len(self._buckets) > _REMEMBERED:
                self._buckets.popitem(last=False)  # the key that was idle for longest; its bucket is full
        return short / self._rate if short > 0 else 0.0


class BodyLimit:
    """ASGI middleware that refuses a request above the limit, before or while it is read.

    Args:
        app: The application.
        limit: Maximum number of bytes.
    """

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self._app, self._limit = app, limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        for name, value in scope["headers"]:
            if name == b"content-length" and not (value.isdigit() and int(value) <= self._limit):
                await self._refuse(value.decode("latin-1")).answer()(scope, receive, send)
                return
        size = 0

        async def counted() -> Message:
            nonlocal size
            message = await receive()
            if message["type"] == "http.request":
                size += len(message.get("body", b""))
                if size > self._limit:
                    raise self._refuse(f"more than {self._limit}")
            return message

        await self._app(scope, counted, send)

    def _refuse(self, size: str) -> Problem:
        return Problem(
            413,
            "Request too large",
            value=f"{size} bytes",
            rule=f"a request has at most {self._limit} bytes",
            remedy="send several requests",
        )
