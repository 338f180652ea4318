"""How much one may ask: requests per key, and the size of a request."""

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
    """`rate`: requests per second of one key, on average; `burst`: how many at once. `body`: bytes of one request;
    `batch`: assignments, exposures or users in one.
    """

    rate: float = 1_000.0
    burst: int = 2_000
    body: int = 1_000_000
    batch: int = 1_000


def check_batch(size: int, most: int) -> None:
    """Raises Problem when a request holds more than it may."""
    if size > most:
        raise Problem(
            422, "Request refused", value=size, rule=f"a request holds at most {most}", remedy="send it in parts"
        )


class RateLimiter:
    """A token bucket per key. Shared between threads; `monotonic` gives seconds."""

    def __init__(self, rate: float, burst: int, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._rate, self._burst, self._monotonic = rate, burst, monotonic
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._lock = threading.Lock()

    def wait(self, key: str) -> float:
        """Takes one token: 0 when there is one, else the seconds until there will be."""
        now = self._monotonic()
        with self._lock:
            tokens, since = self._buckets.pop(key, (float(self._burst), now))
            tokens = min(float(self._burst), tokens + (now - since) * self._rate)
            short = 1.0 - tokens
            self._buckets[key] = (tokens if short > 0 else tokens - 1.0, now)
            if len(self._buckets) > _REMEMBERED:
                self._buckets.popitem(last=False)  # the one that has been quiet for longest, hence full
        return short / self._rate if short > 0 else 0.0


class BodyLimit:
    """ASGI middleware: refuses a request that is larger than the limit, before or while it is read."""

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self._app, self._limit = app, limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
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
            remedy="send it in parts",
        )
