"""Image links -> vectors: fetch, look the content hash up, encode on Triton only what was never seen."""

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
    """An image as `streaming.catalogue.images.fetch.ImageFetcher` answers it."""

    @property
    def content_hash(self) -> str: ...
    @property
    def pixels(self) -> np.ndarray[Any, np.dtype[np.uint8]]: ...


class FetchMany(Protocol):
    """`ImageFetcher.fetch_many`: in the order of the links, each an image or its error."""

    def __call__(self, links: Iterable[str]) -> Sequence[Fetched | ImageError]: ...


class CachedImageVectors:
    """The catalogue consumer's `ImageVectors`.

    Args:
        batch: images in memory at once.
        pauses_s: before each further attempt to fetch what may be there later; what then still is not, is an error.
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
        """(content hash, vector `[256]`) of each link, or why it has none. Memory is bounded by the batch."""
        out: dict[str, tuple[str, Float32Array] | ImageError] = {}
        for start in range(0, len(links), self._batch):
            part = links[start : start + self._batch]
            out |= self._of_batch(part)
        return out

    def _of_batch(self, links: Sequence[str]) -> dict[str, tuple[str, Float32Array] | ImageError]:
        fetched = self._fetch(links)
        images = {f.content_hash: f.pixels for f in fetched.values() if not isinstance(f, ImageError)}
        vectors = self._cache.get(list(images))
        unseen = [h for h in images if h not in vectors]
        rejected: dict[str, str] = {}
        if unseen:
            answer, refused = self._encode(np.stack([images[h] for h in unseen]))
            rejected = {unseen[row]: reason for row, reason in refused.items()}
            fresh = {h: answer[row] for row, h in enumerate(unseen) if row not in refused}
            self._cache.put(fresh)
            vectors |= fresh
        return {
            link: f
            if isinstance(f, ImageError)
            else (f.content_hash, vectors[f.content_hash])
            if f.content_hash in vectors
            else ImageError(f"the visual encoder rejects {link}: {rejected[f.content_hash]}")
            for link, f in fetched.items()
        }

    def _fetch(self, links: Sequence[str]) -> dict[str, Fetched | ImageError]:
        fetched = dict(zip(links, self._fetch_many(links), strict=True))
        for pause_s in self._pauses_s:
            again = [link for link, f in fetched.items() if isinstance(f, ImageError) and f.retryable]
            if not again:
                break
            self._sleep(pause_s)
            fetched.update(zip(again, self._fetch_many(again), strict=True))
        return fetched
