"""From links to vectors: encoded once per content, retried if the error is retryable, bounded in memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from inference.arrays import Float32Array
from inference.visual_cache import VisualCache
from streaming.catalogue.images.vectors import CachedImageVectors
from streaming.errors import ImageError


class Picture(NamedTuple):
    content_hash: str
    pixels: Any


class Web:
    """Each link is an image of its own colour; some fail a number of times, some forever."""

    def __init__(self) -> None:
        self.failures: dict[str, list[ImageError]] = {}
        self.fetched: list[list[str]] = []
        self.encoded: list[int] = []
        self.black: set[int] = set()  # rows that the encoder refuses, by colour

    def fetch_many(self, links: Iterable[str]) -> list[Picture | ImageError]:
        self.fetched.append(list(links))
        return [self.failures[x].pop(0) if self.failures.get(x) else self.picture(x) for x in self.fetched[-1]]

    @staticmethod
    def picture(link: str) -> Picture:
        colour = int(link.rstrip("abc"))
        return Picture(f"hash{colour}", np.full((224, 224, 3), colour, np.uint8))

    def encode(self, pixels: Any) -> tuple[Float32Array, dict[int, str]]:
        colours = pixels[:, 0, 0, 0]
        self.encoded += [int(c) for c in colours]
        vectors = np.repeat(colours[:, None], 256, 1).astype(np.float32)
        return vectors, {row: "black" for row, c in enumerate(colours) if c in self.black}


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[VisualCache]:
    cache = VisualCache(tmp_path / "cache.db", "v1")
    yield cache
    cache.close()


def later(link: str = "1") -> ImageError:
    return ImageError(f"{link}: not now", retryable=True)


def test_the_same_content_is_encoded_once_however_many_links_and_batches_show_it(cache: VisualCache) -> None:
    web = Web()
    images = CachedImageVectors(web.fetch_many, web.encode, cache, batch=2)
    vectors = images.vectors(["1a", "1b", "2", "1c"])
    assert {link: (h, v[0]) for link, (h, v) in vectors.items()} == {
        "1a": ("hash1", 1),
        "1b": ("hash1", 1),
        "2": ("hash2", 2),
        "1c": ("hash1", 1),
    }
    assert web.encoded == [1, 2]
    assert [len(links) for links in web.fetched] == [2, 2]


def test_only_retryable_images_are_fetched_again_after_a_pause(cache: VisualCache) -> None:
    web, pauses = Web(), []
    web.failures = {"1": [later(), later()], "2": [ImageError("2: is no image")]}
    images = CachedImageVectors(web.fetch_many, web.encode, cache, pauses_s=(0.2, 1.0), sleep=pauses.append)
    vectors = images.vectors(["1", "2", "3"])
    assert not isinstance(vectors["1"], ImageError)
    assert isinstance(vectors["2"], ImageError)
    assert web.fetched == [["1", "2", "3"], ["1"], ["1"]]
    assert pauses == [0.2, 1.0]


def test_an_image_that_stays_missing_is_an_error_of_its_own(cache: VisualCache) -> None:
    web = Web()
    web.failures = {"1": [later()] * 9}
    images = CachedImageVectors(web.fetch_many, web.encode, cache, sleep=lambda s: None)
    vectors = images.vectors(["1", "2"])
    assert str(vectors["1"]) == "1: not now"
    assert not isinstance(vectors["2"], ImageError)
    assert len(web.fetched) == 3


def test_an_image_that_the_encoder_refuses_is_named_and_not_cached(cache: VisualCache) -> None:
    web = Web()
    web.black = {1}
    images = CachedImageVectors(web.fetch_many, web.encode, cache)
    vectors = images.vectors(["1", "2"])
    assert str(vectors["1"]) == "the visual encoder rejects 1: black"
    assert not isinstance(vectors["2"], ImageError)
    assert list(cache.get(["hash1", "hash2"])) == ["hash2"]
