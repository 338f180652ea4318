"""The images of stored products: which ones must be fetched, and how they are put into the features."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Protocol

import numpy as np

from feature_repo.rows import ProductFeatures
from inference.arrays import Float32Array
from inference.inputs import VECTOR_DIM
from streaming.catalogue.batch import BatchResult, Received
from streaming.catalogue.merging import Product
from streaming.contracts import image_links
from streaming.errors import ImageError

LINKS_REMEMBERED = 100_000
"""Maximum number of failed links that are remembered."""

ImageVector = tuple[str, Float32Array]
"""Content hash and vector `[256]` of an image."""


class ImageVectors(Protocol):
    """Vectors of images by link, such as `streaming.catalogue.images.vectors.CachedImageVectors`."""

    visual_version: str

    def vectors(self, links: Sequence[str]) -> Mapping[str, ImageVector | ImageError]:
        """Return the vector of each image, or the reason why there is none."""


class ProductImages:
    """Decides which images to fetch, and remembers links that failed.

    Args:
        images: Fetches and encodes images.
        clock: The present time, aware.
        retry_after: Shortest time before a failed link is tried again, so that an unreachable server does not slow
            every price change. An update that names the link skips the wait.
    """

    def __init__(self, images: ImageVectors, clock: Callable[[], datetime], retry_after: timedelta) -> None:
        self._images, self._clock, self._retry_after = images, clock, retry_after
        self._retry_at: dict[str, datetime] = {}  # of failed links

    @property
    def visual_version(self) -> str:
        """Version of the visual encoder."""
        return self._images.visual_version

    def links_to_fetch(
        self, stored: ProductFeatures | None, product: Product, received: Sequence[Received]
    ) -> list[str]:
        """Return the links of a product whose images must be fetched.

        These are the links without an image, except those that failed recently and that no update names. If an update
        says that the images changed, all links are returned, even for a stale update: images have no versions.
        """
        if any(r.update.refresh_images for r in received):
            return list(product.links)
        present = self.present(stored)
        if present.keys() >= set(product.links):
            return []
        named = {link for r in received for link in image_links(r.update) or ()}
        now = self._clock()
        return [
            link
            for link in product.links
            if link not in present and (link in named or self._retry_at.get(link, now) <= now)
        ]

    def fetch(self, links: Sequence[str]) -> Mapping[str, ImageVector | ImageError]:
        """Fetch images; return the vector of each, or the reason why there is none."""
        fetched = self._images.vectors(links) if links else {}
        if len(self._retry_at) > LINKS_REMEMBERED:
            self._retry_at.clear()
        for link, image in fetched.items():
            if isinstance(image, ImageError):
                self._retry_at[link] = self._clock() + self._retry_after
        return fetched

    def present(self, stored: ProductFeatures | None) -> dict[str, ImageVector]:
        """Return the images of a stored product that the current visual encoder encoded, by link."""
        if stored is None or stored.deleted or stored.visual_version != self.visual_version:
            return {}
        had = [(link, digest) for link, digest in zip(stored.image_urls, stored.image_hashes, strict=True) if digest]
        return {link: (digest, vector) for (link, digest), vector in zip(had, stored.image_vectors, strict=True)}

    def put(self, row: ProductFeatures, links: Sequence[str], images: Mapping[str, ImageVector]) -> None:
        """Set all links of a product in its features, with the images that are available."""
        row.image_urls = list(links)
        row.image_hashes = [images[link][0] if link in images else "" for link in links]
        vectors = [images[link][1] for link in links if link in images]
        row.image_vectors = np.stack(vectors) if vectors else np.zeros((0, VECTOR_DIM), np.float32)
        row.visual_version = self.visual_version


def refuse_images(errors: Mapping[str, ImageError], received: Sequence[Received], result: BatchResult) -> None:
    """Add one dead letter for the missing images of a product: the newest update that names one of them.

    Stale updates are considered too: after a crash, the update that named the image is stale. An update that names none
    of the links, such as a new price, is not the cause.
    """
    if not errors:
        return
    for r in sorted(received, key=lambda r: r.update.version, reverse=True):
        if r.update.refresh_images or not errors.keys().isdisjoint(image_links(r.update) or ()):
            result.refuse(r.record, "image", ImageError("; ".join(map(str, errors.values()))))
            return
    result.counts["images_still_missing"] += len(errors)
