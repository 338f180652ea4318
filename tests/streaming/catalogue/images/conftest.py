"""A web server, and a fetcher that may connect to it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from streaming.catalogue.images.fetch import ImageFetcher
from tests.streaming.catalogue.images.web import Server


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


@pytest.fixture
def fetcher() -> Iterator[ImageFetcher]:
    with ImageFetcher(allow_private=True, timeout=5, max_bytes=100_000) as fetcher:
        yield fetcher
