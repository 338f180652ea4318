"""Product images: fetched from files or http(s) within limits, and decoded to one size.

The links of a feed are not trusted: a link may point into the network behind the firewall, a file may be a
decompression bomb, a server may drip one byte a second. The other modules of this package protect against each of them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from streaming.catalogue.images import addresses
from streaming.catalogue.images.addresses import Resolver, resolve_host
from streaming.catalogue.images.download import Downloader
from streaming.catalogue.images.local_files import read_file
from streaming.catalogue.images.pixels import Pixels, decode_image
from streaming.errors import ImageError


@dataclass(frozen=True, eq=False)
class FetchedImage:
    """An image ready for the visual encoder.

    Attributes:
        content_hash: SHA-256 of the bytes as fetched, in hex.
        pixels: `[224, 224, 3]` uint8, RGB.
    """

    content_hash: str
    pixels: Pixels


class ImageFetcher:
    """Fetches and decodes images; safe to share between threads. A context manager.

    Args:
        max_bytes: Largest file as stored, in bytes.
        timeout: Seconds for everything about one http(s) image, redirects included (name resolution not).
        max_pixels: Width times height before scaling; an image with more is refused by its header.
        allow_private: Whether to connect to addresses that are not public (loopback, private, link-local, ...).
        root: Folder or folders below which files are read; None for any file that the process may read.
        workers: Number of images that `fetch_many` fetches at once.
        resolve: Resolves host names; by default the system's resolver.
        is_public: Whether an IP address is public.
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
        resolve: Resolver = resolve_host,
        is_public: Callable[[str], bool] = addresses.is_public,
    ) -> None:
        for name, value in (("max_bytes", max_bytes), ("timeout", timeout), ("max_pixels", max_pixels)):
            if value <= 0:
                raise ValueError(f"{name} must be > 0, is {value}")
        self._max_bytes = max_bytes
        self._max_pixels = max_pixels
        roots = [root] if isinstance(root, Path) else root
        self._roots = None if roots is None else [folder.resolve() for folder in roots]
        self._downloader = Downloader(
            max_bytes=max_bytes,
            timeout=timeout,
            resolve=resolve,
            permitted=lambda address: allow_private or is_public(address),
        )
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="image")

    def __enter__(self) -> ImageFetcher:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Wait for running fetches, then close the connections."""
        self._threads.shutdown(cancel_futures=True)
        self._downloader.close()

    def fetch(self, link: str) -> FetchedImage:
        """Return the image behind an http(s) link, a `file:` link or a path.

        Raises:
            ImageError: The link and the reason in one sentence; `retryable` if a later attempt may succeed.
        """
        try:
            raw = self._read(link)
            return FetchedImage(hashlib.sha256(raw).hexdigest(), decode_image(raw, max_pixels=self._max_pixels))
        except ImageError as error:
            raise ImageError(f"{_shown(link)}: {error}", retryable=error.retryable) from error

    def fetch_many(self, links: Iterable[str]) -> list[FetchedImage | ImageError]:
        """Return several images in the order of the links, with an error in the place of each failed image."""
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
            raise ImageError(f"is not a valid link: {error}") from None
        if parts.scheme in ("http", "https"):
            return self._downloader.download(link)
        if parts.scheme == "file":
            if parts.netloc not in ("", "localhost"):
                raise ImageError("names a file on another machine")
            return self._read_file(unquote(parts.path))
        if parts.scheme and not link.startswith("/"):
            raise ImageError(f"has the scheme {parts.scheme[:20]!r}; only http, https and file are supported")
        return self._read_file(link)

    def _read_file(self, name: str) -> bytes:
        return read_file(name, roots=self._roots, max_bytes=self._max_bytes)


def _shown(link: str) -> str:
    """Return the link for a log, without a password and without a signed query."""
    try:
        parts = urlsplit(link)
    except ValueError:
        return repr(link[:100])
    if parts.scheme not in ("http", "https"):
        return repr(link[:200])
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}{parts.path}"[:200] + ("?…" if parts.query else "")
