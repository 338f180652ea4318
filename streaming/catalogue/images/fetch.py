"""Product images: fetched from files or http(s) with limits, decoded, and brought to one size.

What a feed names is not trusted: a link may point into the network behind the firewall, a file may be a bomb, a
server may drip one byte a second. So each address that is connected to was checked first (also after a redirect,
and it is that very address: no second look-up in which a name could change its mind), a fetch has one deadline for
everything, sizes are counted while reading, and an image's dimensions are looked at before its pixels are made.
"""

from __future__ import annotations

import errno
import hashlib
import io
import ipaddress
import os
import socket
import ssl
import stat
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import httpcore
import httpx
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from streaming.errors import ImageError

SIDE = 224
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF")
_MAX_REDIRECTS = 3
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
# A client error that passes by itself: time-out, too early, too many requests.
_TRY_LATER = frozenset({408, 425, 429})
_WHITE = (255, 255, 255)

Resolver = Callable[[str, int], Sequence[str]]
Pixels = np.ndarray[Any, np.dtype[np.uint8]]


@dataclass(frozen=True, eq=False)
class FetchedImage:
    """An image ready for the visual encoder.

    `content_hash` is the SHA-256 of the bytes as fetched, in hex; `pixels` is `[224, 224, 3]` uint8, RGB.
    """

    content_hash: str
    pixels: Pixels


class ImageFetcher:
    """Fetches and decodes images; safe to share between threads; close it or use it as a context manager.

    Args:
        max_bytes: of the file as stored.
        timeout: seconds for everything about one http(s) image, redirects included (not for the name server).
        max_pixels: width times height before scaling; an image with more is refused by its header.
        allow_private: connect to addresses that are not public (loopback, private, link-local, …).
        root: files are read only below this folder or these; None reads any file that the process may read.
        workers: images that `fetch_many` works on at once.
        resolve: `(host, port) -> addresses`, the system's resolver by default.
    """

    def __init__(
        self,
        *,
        max_bytes: int = 10_000_000,
        timeout: float = 10.0,
        max_pixels: int = 40_000_000,
        allow_private: bool = False,
        root: Path | Sequence[Path] | None = None,
        workers: int = 4,
        resolve: Resolver | None = None,
    ) -> None:
        for name, value in (("max_bytes", max_bytes), ("timeout", timeout), ("max_pixels", max_pixels)):
            if value <= 0:
                raise ValueError(f"{name} must be > 0, is {value}")
        self._max_bytes = max_bytes
        self._timeout = timeout
        self._max_pixels = max_pixels
        roots = [root] if isinstance(root, Path) else root
        self._roots = None if roots is None else [folder.resolve() for folder in roots]
        self._backend = _CheckedBackend(resolve or _resolve, allow_private=allow_private)
        self._http: httpcore.ConnectionPool | None = None
        self._lock = threading.Lock()
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="image")

    def __enter__(self) -> ImageFetcher:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Wait for images in work and close the connections."""
        self._threads.shutdown(cancel_futures=True)
        if self._http is not None:
            self._http.close()

    def fetch(self, link: str) -> FetchedImage:
        """The image behind an http(s) link, a `file:` link or a path.

        Raises:
            ImageError: one sentence with the link and the reason; `retryable` when a later try may succeed.
        """
        try:
            raw = self._read(link)
            return FetchedImage(hashlib.sha256(raw).hexdigest(), decode(raw, max_pixels=self._max_pixels))
        except ImageError as error:
            raise ImageError(f"{_shown(link)}: {error}", retryable=error.retryable) from error

    def fetch_many(self, links: Iterable[str]) -> list[FetchedImage | ImageError]:
        """Several images at once, in the order of the links; an error stands in the place of its image."""
        return list(self._threads.map(self._fetch_or_error, links))

    def _fetch_or_error(self, link: str) -> FetchedImage | ImageError:
        try:
            return self.fetch(link)
        except ImageError as error:
            return error

    def _read(self, link: str) -> bytes:
        try:
            parts = urlsplit(link)
        except ValueError as error:
            raise ImageError(f"is no link: {error}") from None
        if parts.scheme in ("http", "https"):
            return self._download(link)
        if parts.scheme == "file":
            if parts.netloc not in ("", "localhost"):
                raise ImageError("names a file on another machine")
            return self._read_file(unquote(parts.path))
        if parts.scheme and not link.startswith("/"):
            raise ImageError(f"has the scheme {parts.scheme[:20]!r}; http, https and file are read")
        return self._read_file(link)

    def _read_file(self, name: str) -> bytes:
        try:
            path = Path(name).resolve(strict=True)
            if self._roots is not None and not any(path.is_relative_to(root) for root in self._roots):
                raise ImageError("lies outside the folders that images may be read from")
            # Not blocking: opening a named pipe would wait for its writer.
            with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
                if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                    raise ImageError("is not an ordinary file")
                raw = file.read(self._max_bytes + 1)
        except FileNotFoundError:
            raise ImageError("there is no such file") from None
        except (OSError, ValueError, RuntimeError) as error:  # ValueError: NUL in the name; RuntimeError: link loop
            later = isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE, errno.EIO, errno.ESTALE)
            raise ImageError(f"cannot be read: {getattr(error, 'strerror', None) or error}", retryable=later) from None
        if len(raw) > self._max_bytes:
            raise ImageError(f"is larger than {self._max_bytes} bytes")
        return raw

    def _download(self, link: str) -> bytes:
        self._backend.start(self._timeout)
        try:
            url = httpx.URL(link)
            for _ in range(_MAX_REDIRECTS + 1):
                if url.scheme not in ("http", "https") or not url.host:
                    raise ImageError("leads to something that is neither http nor https")
                found = self._get(url)
                if isinstance(found, bytes):
                    return found
                url = url.join(found)
        except httpx.InvalidURL as error:
            raise ImageError(f"is no link: {error}") from None
        except (httpcore.TimeoutException, httpcore.PoolTimeout):
            raise ImageError(f"was not there after {self._timeout:g} s", retryable=True) from None
        except (httpcore.NetworkError, httpcore.ProtocolError) as error:
            distrusted = isinstance(_root_cause(error), ssl.SSLCertVerificationError)
            raise ImageError(f"the connection failed: {error}", retryable=not distrusted) from None
        raise ImageError(f"redirects more than {_MAX_REDIRECTS} times")

    def _get(self, url: httpx.URL) -> bytes | str:
        """One request: the body, or where it redirects to."""
        headers: dict[bytes | str, bytes | str] = {
            "Host": url.netloc,
            "Accept": "image/*",
            "Accept-Encoding": "identity",
            "User-Agent": "sagelift",
        }
        target = httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path)
        limits = dict.fromkeys(("connect", "read", "write", "pool"), self._timeout)
        with self._pool().stream("GET", target, headers=headers, extensions={"timeout": limits}) as response:
            fields = {name.lower().decode("latin-1"): value.decode("latin-1") for name, value in response.headers}
            if response.status in _REDIRECTS and "location" in fields:
                return fields["location"]
            if response.status != 200:
                later = response.status >= 500 or response.status in _TRY_LATER
                raise ImageError(f"the server answered {response.status}", retryable=later)
            kind = fields.get("content-type", "nothing").partition(";")[0].strip().lower()
            if not kind.startswith("image/"):
                raise ImageError(f"is not an image: the server calls it {kind[:60]!r}")
            if fields.get("content-encoding", "identity").lower() != "identity":
                raise ImageError("the server compressed it although it was asked not to")
            length = fields.get("content-length", "")
            if length.isdecimal() and int(length[:20]) > self._max_bytes:
                raise ImageError(f"is larger than {self._max_bytes} bytes")
            raw = bytearray()
            for chunk in response.iter_stream():
                raw += chunk
                if len(raw) > self._max_bytes:
                    raise ImageError(f"is larger than {self._max_bytes} bytes")
            return bytes(raw)

    def _pool(self) -> httpcore.ConnectionPool:
        with self._lock:
            if self._http is None:  # reading the certificates takes a while: not for a catalogue of files
                self._http = httpcore.ConnectionPool(
                    ssl_context=httpx.create_ssl_context(),
                    max_connections=64,
                    max_keepalive_connections=16,
                    keepalive_expiry=30.0,
                    network_backend=self._backend,
                )
            return self._http


def decode(raw: bytes, *, max_pixels: int) -> Pixels:
    """JPEG, PNG, WebP or the first frame of a GIF as `[224, 224, 3]` uint8, RGB.

    Turned upright by its EXIF orientation, transparency over white. Scaled to fit and padded with white to a
    square: a centre crop would cut the foot off a lamp and the handle off a hammer, and products stand on white.

    Raises:
        ImageError: not an image, damaged, or with more than `max_pixels` pixels.
    """
    if not raw:
        raise ImageError("is empty")
    try:
        with Image.open(io.BytesIO(raw), formats=_FORMATS) as image:
            if image.width * image.height > max_pixels:
                raise ImageError(f"has {image.width} x {image.height} pixels, at most {max_pixels} are allowed")
            image.draft("RGB", (2 * SIDE, 2 * SIDE))  # a large JPEG is decoded at a half, a quarter or an eighth
            return _to_square(image)
    except ImageError:
        raise
    except UnidentifiedImageError:
        raise ImageError("is not a JPEG, PNG, WebP or GIF image") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(f"has too many pixels: {error}") from None
    # Pillow's decoders raise nearly anything on hostile bytes; none of it may stop the stream.
    except Exception as error:
        raise ImageError(f"is damaged: {error}") from error


def _to_square(image: Image.Image) -> Pixels:
    if image.mode.startswith("I"):  # 16 bits a channel; convert() would clip instead of scale
        image = Image.fromarray((np.asarray(image).clip(0, 65_535) >> 8).astype(np.uint8))
    transparent = image.has_transparency_data
    picture = _upright(image).convert("RGBA" if transparent else "RGB")
    scale = SIDE / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    # Pillow's bilinear filter widens with the scale when it makes smaller, so it smooths (antialias).
    picture = picture.resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0)
    square = Image.new("RGB", (SIDE, SIDE), _WHITE)
    corner = ((SIDE - size[0]) // 2, (SIDE - size[1]) // 2)
    square.paste(picture, corner, picture if transparent else None)
    return np.array(square)


def _upright(image: Image.Image) -> Image.Image:
    image.load()
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # broken EXIF is no reason to lose the picture
        return image


def is_public(address: str) -> bool:
    """Whether an IP address belongs to the public internet, looked through IPv6's wrappers of IPv4."""
    ip: ipaddress.IPv4Address | ipaddress.IPv6Address = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        if ip in _NAT64:
            return is_public(str(ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)))
        wrapped = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
        if wrapped is not None:
            return is_public(str(wrapped))
        if ip.is_site_local:
            return False
    return ip.is_global and not ip.is_multicast and not ip.is_reserved and not ip.is_unspecified


_NAT64 = ipaddress.ip_network("64:ff9b::/96")


class _CheckedBackend(httpcore.NetworkBackend):
    """Opens connections only to addresses that were checked, and holds each thread to its deadline."""

    def __init__(self, resolve: Resolver, *, allow_private: bool) -> None:
        self._resolve = resolve
        self._allow_private = allow_private
        self._sockets = httpcore.SyncBackend()
        self._thread = threading.local()

    def start(self, timeout: float) -> None:
        """From now on this thread has `timeout` seconds."""
        self._thread.deadline = time.monotonic() + timeout

    def left(self, kind: type[httpcore.TimeoutException]) -> float:
        """Seconds until this thread's deadline."""
        seconds = float(self._thread.deadline) - time.monotonic()
        if seconds <= 0:
            raise kind
        return seconds

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Any = None,
    ) -> httpcore.NetworkStream:
        try:
            addresses = self._resolve(host, port)
        except (OSError, UnicodeError) as error:
            later = getattr(error, "errno", None) == socket.EAI_AGAIN
            raise ImageError(f"the host {host!r} has no address: {error}", retryable=later) from None
        allowed = [address for address in addresses if self._allow_private or is_public(address)]
        if not allowed:
            raise ImageError(
                f"the host {host!r} is not on the public internet ({', '.join(addresses)}); "
                "private addresses have to be allowed in the settings"
            )
        failed: httpcore.ConnectError | httpcore.ConnectTimeout | None = None
        for tried, address in enumerate(allowed):
            try:
                # A share each: one address that swallows packets must not use up the time of the others.
                share = self.left(httpcore.ConnectTimeout) / (len(allowed) - tried)
                stream = self._sockets.connect_tcp(address, port, share, local_address, socket_options)
                return _DeadlineStream(stream, self)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failed = error
        assert failed is not None
        raise failed


class _DeadlineStream(httpcore.NetworkStream):
    """A connection whose every wait ends at its thread's deadline: a server that drips bytes gains nothing."""

    def __init__(self, stream: httpcore.NetworkStream, backend: _CheckedBackend) -> None:
        self._stream = stream
        self._backend = backend

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, self._backend.left(httpcore.ReadTimeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, self._backend.left(httpcore.WriteTimeout))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        left = self._backend.left(httpcore.ConnectTimeout)
        return _DeadlineStream(self._stream.start_tls(ssl_context, server_hostname, left), self._backend)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


def _resolve(host: str, port: int) -> list[str]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


def _root_cause(error: BaseException) -> BaseException:
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    return error


def _shown(link: str) -> str:
    """The link as it may stand in a log: without a password or a signed query."""
    try:
        parts = urlsplit(link)
    except ValueError:
        return repr(link[:100])
    if parts.scheme not in ("http", "https"):
        return repr(link[:200])
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}{parts.path}"[:200] + ("?…" if parts.query else "")
