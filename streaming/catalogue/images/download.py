"""Download of images over http(s), within limits of time and size."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable

import httpcore
import httpx

from streaming.catalogue.images.addresses import CheckedBackend, Resolver
from streaming.errors import ImageError

_MAX_REDIRECTS = 3
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
# Client errors that are temporary: time-out, too early, too many requests.
_RETRYABLE = frozenset({408, 425, 429})


class Downloader:
    """Downloads images; safe to share between threads.

    Args:
        max_bytes: Largest body, in bytes.
        timeout: Seconds for one image, redirects included, name resolution not.
        resolve: Resolves host names.
        permitted: Whether a connection to an IP address is permitted.
    """

    def __init__(self, *, max_bytes: int, timeout: float, resolve: Resolver, permitted: Callable[[str], bool]) -> None:
        self._max_bytes, self._timeout = max_bytes, timeout
        self._backend = CheckedBackend(resolve, permitted)
        self._pool: httpcore.ConnectionPool | None = None
        self._lock = threading.Lock()

    def close(self) -> None:
        """Close the connections."""
        if self._pool is not None:
            self._pool.close()

    def download(self, link: str) -> bytes:
        """Return the body of an image.

        Raises:
            ImageError: The image cannot be downloaded within the limits.
        """
        self._backend.start(self._timeout)
        try:
            url = httpx.URL(link)
            for _ in range(_MAX_REDIRECTS + 1):
                if url.scheme not in ("http", "https") or not url.host:
                    raise ImageError("leads to a link that is neither http nor https")
                body, location = self._get(url)
                if location is None:
                    return body
                url = url.join(location)
        except httpx.InvalidURL as error:
            raise ImageError(f"is not a valid link: {error}") from None
        except (httpcore.TimeoutException, httpcore.PoolTimeout):
            raise ImageError(f"did not arrive within {self._timeout:g} s", retryable=True) from None
        except (httpcore.NetworkError, httpcore.ProtocolError) as error:
            untrusted = isinstance(_root_cause(error), ssl.SSLCertVerificationError)
            raise ImageError(f"the connection failed: {error}", retryable=not untrusted) from None
        raise ImageError(f"redirects more than {_MAX_REDIRECTS} times")

    def _get(self, url: httpx.URL) -> tuple[bytes, str | None]:
        """Make one request; return the body, and for a redirect its location."""
        headers: dict[bytes | str, bytes | str] = {
            "Host": url.netloc,
            "Accept": "image/*",
            "Accept-Encoding": "identity",
            "User-Agent": "sagelift",
        }
        target = httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path)
        timeouts = dict.fromkeys(("connect", "read", "write", "pool"), self._timeout)
        with self._open_pool().stream("GET", target, headers=headers, extensions={"timeout": timeouts}) as response:
            fields = {name.lower().decode("latin-1"): value.decode("latin-1") for name, value in response.headers}
            if response.status in _REDIRECTS and "location" in fields:
                return b"", fields["location"]
            self._check(response.status, fields)
            return self._read(response), None

    def _check(self, status: int, fields: dict[str, str]) -> None:
        if status != 200:
            raise ImageError(f"the server answered {status}", retryable=status >= 500 or status in _RETRYABLE)
        kind = fields.get("content-type", "nothing").partition(";")[0].strip().lower()
        if not kind.startswith("image/"):
            raise ImageError(f"is not an image: the server calls it {kind[:60]!r}")
        if fields.get("content-encoding", "identity").lower() != "identity":
            raise ImageError("the server compressed it although it was asked not to")
        length = fields.get("content-length", "")
        if length.isdecimal() and int(length[:20]) > self._max_bytes:
            raise ImageError(f"is larger than {self._max_bytes} bytes")

    def _read(self, response: httpcore.Response) -> bytes:
        body = bytearray()
        for chunk in response.iter_stream():
            body += chunk
            if len(body) > self._max_bytes:
                raise ImageError(f"is larger than {self._max_bytes} bytes")
        return bytes(body)

    def _open_pool(self) -> httpcore.ConnectionPool:
        with self._lock:
            if self._pool is None:  # reading the certificates takes a while; a catalogue of files does not need them
                self._pool = httpcore.ConnectionPool(
                    ssl_context=httpx.create_ssl_context(),
                    max_connections=64,
                    max_keepalive_connections=16,
                    keepalive_expiry=30.0,
                    network_backend=self._backend,
                )
            return self._pool


def _root_cause(error: BaseException) -> BaseException:
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    return error
