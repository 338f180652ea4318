"""From image links to vectors: fetch, look up the content hash in the cache, encode only new images on Triton."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from inference.arrays import Float32Array
from inference.visual_cache import VisualCache
from streaming.errors import ImageError

EncodeImages = Callable[[np.ndarray[Any, np.dtype[np.uint8]]], tuple[Float32Array, dict[int, str]]]
"""Pixels `[N, 224, 224, 3]` -> vectors `[N, 256]` and the rejected rows with reasons (`TritonClient.encode_images`)."""


class Fetched(Protocol):
    """A fetched image, such as `streaming.catalogue.images.fetch.FetchedImage`."""

    @property
    def content_hash(self) -> str:
        """SHA-256 of the bytes, in hex."""

    @property
    def pixels(self) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """`[224, 224, 3]` uint8, RGB."""


class FetchMany(Protocol):
    """Fetches images, as `ImageFetcher.fetch_many` does."""

    def __call__(self, links: Iterable[str]) -> Sequence[Fetched | ImageError]:
        """Return an image or its error for each link, in the order of the links."""


class CachedImageVectors:
    """Vectors of images by link.

    Args:
        fetch_many: Fetches images.
        encode: Encodes pixels.
        cache: Vectors by content hash.
        batch: Number of images in memory at once.
        pauses_s: Pauses before further attempts at images with a retryable error, in seconds. An image that is still
            missing after the last attempt is an error.
        sleep: Waits, such as `time.sleep`.

    Attributes:
        visual_version: Version of the visual encoder.
    """

    def __init__(
        self,
        fetch_many: FetchMany,
        encode: EncodeImages,
        cache: VisualCache,
        *,
        batch: int = 128,
        pauses_s: Sequence[float] = (0.2, 1.0),
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._fetch_many, self._encode, self._cache, self._batch = fetch_many, encode, cache, batch
        self._pauses_s, self._sleep = pauses_s, sleep
        self.visual_version = cache.visual_version

    def vectors(self, links: Sequence[str]) -> Mapping[str, tuple[str, Float32Array] | ImageError]:
        """Return (content hash, vector `[256]`) of each link, or the error that explains why it has none."""
        out: dict[str, tuple[str, Float32Array] | ImageError] = {}
        for start in range(0, len(links), self._batch):
            part = links[start : start + self._batch]
            out |= self._vectors_of_batch(part)
        return out

    def _vectors_of_batch(self, links: Sequence[str]) -> dict[str, tuple[str, Float32Array] | ImageError]:
        fetched = self._fetch(links)
        images = {f.content_hash: f.pixels for f in fetched.values() if not isinstance(f, ImageError)}
        vectors = self._cache.get(list(images))
        uncached = [digest for digest in images if digest not in vectors]
        rejected: dict[str, str] = {}
        if uncached:
            encoded, reasons = self._encode(np.stack([images[digest] for digest in uncached]))
            rejected = {uncached[row]: reason for row, reason in reasons.items()}
            new_vectors = {digest: encoded[row] for row, digest in enumerate(uncached) if row not in reasons}
            self._cache.put(new_vectors)
            vectors |= new_vectors

        def answer(link: str, image: Fetched | ImageError) -> tuple[str, Float32Array] | ImageError:
            if isinstance(image, ImageError):
                return image
            if image.content_hash in vectors:
                return image.content_hash, vectors[image.content_hash]
            return ImageError(f"the visual encoder rejects {link}: {rejected[image.content_hash]}")

        return {link: answer(link, image) for link, image in fetched.items()}

    def _fetch(self, links: Sequence[str]) -> dict[str, Fetched | ImageError]:
        fetched = dict(zip(links, self._fetch_many(links), strict=True))
        for pause_s in self._pauses_s:
            retryable = [link for link, f in fetched.items() if isinstance(f, ImageError) and f.retryable]
            if not retryable:
                break
            self._sleep(pause_s)
            fetched.update(zip(retryable, self._fetch_many(retryable), strict=True))
        return fetched
